"""SliceMamba: a U-shaped vision-Mamba segmentation network whose blocks slice their feature maps before scanning."""

__version__ = "0.1.0"
