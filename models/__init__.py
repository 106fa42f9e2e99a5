"""Model zoo: every backbone of the paper beside its plain baseline."""

from models import competitors, deit, pvt, resnet, san, swin  # noqa: F401  (importing a family registers its models)
from models.registry import create_model, list_models, register_model

__all__ = ["create_model", "list_models", "register_model"]
