"""Compares requests to Datadog with the models of its own client."""

from datadog_api_client import Configuration
from datadog_api_client.model_utils import ModelSimple, OpenApiModel, UnparsedObject, validate_and_convert_types
from datadog_api_client.v1.model.dashboard import Dashboard
from datadog_api_client.v1.model.logs_pipeline import LogsPipeline
from datadog_api_client.v1.model.monitor import Monitor

MODELS = {"dashboard": Dashboard, "pipeline": LogsPipeline, "monitor": Monitor}


def mistakes(kind, body):
    """The parts of `body` that the model does not know."""
    try:
        model = validate_and_convert_types(body, (MODELS[kind],), [kind], True, True, Configuration())
    except Exception as error:  # The client raises many kinds, and each is a mistake.
        return [f"{type(error).__name__}: {error}"]
    return list(unknown(model, kind))


def unknown(value, path):
    if isinstance(value, UnparsedObject):
        yield f"{path}: no model fits"
    elif isinstance(value, ModelSimple):
        if value._unparsed:
            yield f"{path}: there is no {value.value}"
    elif isinstance(value, OpenApiModel):
        # A value of one of several types contains the one that fits.
        kinds = getattr(value, "_composed_instances", None) or []
        for kind in kinds:
            yield from unknown(kind, path)
        for name, inner in {} if kinds else value._data_store.items():
            if name not in value.attribute_map:
                yield f"{path}: {name} is not known"
            yield from unknown(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from unknown(inner, f"{path}[{index}]")
