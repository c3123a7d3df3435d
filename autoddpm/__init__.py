__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoddpm.data import load_dataset
    from autoddpm.ddpm import DDPM
    from autoddpm.detect import AnoDDPM, AutoDDPM
    from autoddpm.unet import UNet, load_checkpoint

__all__ = ["AnoDDPM", "AutoDDPM", "DDPM", "UNet", "load_checkpoint", "load_dataset"]
_HOME = dict(load_dataset="data", DDPM="ddpm", AnoDDPM="detect", AutoDDPM="detect", UNet="unet", load_checkpoint="unet")


def __getattr__(name):
    "Import PyTorch when it is needed: the command line can then answer, and be stopped, at once."
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__():
    return [*globals(), *__all__]
