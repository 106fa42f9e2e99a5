"""Model zoo: every backbone of the paper beside its plain baseline."""

from models.registry import create_model, list_models, register_model

__all__ = ["create_model", "list_models", "register_model"]
