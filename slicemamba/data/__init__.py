"""Segmentation data: folders of images and masks, the embedded synthetic set, checks, cache and transforms.

Nothing here imports torch, except ``transforms``; so a data set can be checked by a process that has no torch.
"""
