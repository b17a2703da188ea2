"""The OpenAPI document, from the Structs that the views read and answer: `/v1/schema/`, `/docs/`, openapi.yaml.

manage.py spectacular --validate --fail-on-warn --file openapi.yaml
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.renderers import OpenApiYamlRenderer

from tenants.api.openapi import REF_TEMPLATE, portable


@require_safe
def schema(request: HttpRequest) -> HttpResponse:
    return HttpResponse(document(), content_type=OpenApiYamlRenderer.media_type)


@cache
def document() -> bytes:
    """The document as YAML, as the command writes it."""
    described = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    text: bytes = OpenApiYamlRenderer().render(described, renderer_context={})  # type: ignore[no-untyped-call]
    return text


class StructExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """A Struct and all it is made of become components."""

    target_class = "msgspec.Struct"
    match_subclasses = True

    def get_name(self, auto_schema: AutoSchema, direction: str) -> str:
        name: str = self.target.__name__
        return name

    def get_identity(self, auto_schema: AutoSchema, direction: str) -> str:
        # Parts of a Struct are known by their names alone.
        return self.get_name(auto_schema, direction)

    def map_serializer(self, auto_schema: AutoSchema, direction: str) -> dict[str, Any]:
        _, components = msgspec.json.schema_components([self.target], ref_template=REF_TEMPLATE)
        own: dict[str, Any] = portable(components.pop(self.target.__name__))
        for name, schema in components.items():
            auto_schema.registry.register_on_missing(_component(name, portable(schema)))
        return own


def _component(name: str, schema: dict[str, Any]) -> ResolvedComponent:
    return ResolvedComponent(name, ResolvedComponent.SCHEMA, schema, object=name)  # type: ignore[no-untyped-call]
