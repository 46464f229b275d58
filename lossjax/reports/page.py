"""Pages: one HTML file each, that asks nothing of a network and runs no script.

Jinja escapes every value; the content-security policy allows the page's own style sheet, by its hash, pictures that are
in the page, and nothing else. The same content always gives the same bytes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import Any

import jinja2


def render(template: str, **content: Any) -> str:
    """The page of a template in ``templates/``; a name that it lacks is an error."""
    environment = _environment()
    style = environment.get_template("style.css").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return environment.get_template(template).render(style=style, policy=policy, **content)


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("lossjax.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
