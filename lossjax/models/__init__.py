from lossjax.models.conv import Conv
from lossjax.models.dense import Dense
from lossjax.models.lstm import LSTM
from lossjax.models.transformer import Transformer

__all__ = ["LSTM", "Conv", "Dense", "Transformer"]
