__version__ = "0.1.0"

from autoddpm.data import load_dataset
from autoddpm.ddpm import DDPM
from autoddpm.detect import AnoDDPM, AutoDDPM
from autoddpm.unet import UNet, load_checkpoint

__all__ = ["AnoDDPM", "AutoDDPM", "DDPM", "UNet", "load_checkpoint", "load_dataset"]
