"""How depth maps, thermal pictures and motion readings become ImageBind's inputs.

The paper (Girdhar et al. 2023, arXiv 2305.05665, section 4 and appendix B) says that depth is read as disparity, after Omnivore,
depth and thermal as pictures of one channel, and IMU as 6 x 2000 readings of 5 s in patches of 8. The project published no
code that prepares them. What is done here, and where it is from:

depth    disparity = baseline * focal length / metres, metres cut to 0.01 to 50; cut at 75 and divided by it; mean 0.0418, deviation
         0.0295 (Omnivore, facebookresearch/omnivore issue 12: SUN RGB-D). Baseline and focal length are a Kinect's, in
         pixels of a picture 640 wide: whatever the width, the same distance gives the same disparity. Where nothing was measured
         (0) the disparity is 0, as of what is far away: cutting would make it nearer than anything.
thermal  0 to 1 and no more: with CLIP's normalisation LLVIP comes out worse than published, without as published
         (facebookresearch/ImageBind pull request 73).
imu      as it is: nothing is known of a normalisation.
Legend: H W pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

BASELINE, FOCAL = 0.075, 518.86  # metres, pixels
NEAREST, FARTHEST, MOST_DISPARITY = 0.01, 50.0, 75.0
DEPTH_MEAN, DEPTH_STD = 0.0418, 0.0295


def prepare_sensed(size: int, kind: str, values: Any) -> torch.Tensor:
    """depth (H, W) in metres or thermal (H, W) from 0 to 1 -> (1, size, size); imu (6, 2000) -> itself; float32."""
    x = torch.from_numpy(np.asarray(values, dtype=np.float32))
    if kind == "imu":
        return x
    if kind == "depth":
        disparity = BASELINE * FOCAL / x.clamp(NEAREST, FARTHEST)
        disparity = torch.where(x > 0, disparity, 0.0).clamp(max=MOST_DISPARITY) / MOST_DISPARITY
        x = (disparity - DEPTH_MEAN) / DEPTH_STD
    return _middle(x[None], size)


def _middle(x: torch.Tensor, size: int) -> torch.Tensor:
    """(1, H, W) with the short side scaled to `size`, bilinear and smoothed, and its middle cut out: (1, size, size)."""
    height, width = x.shape[-2:]
    short = min(height, width)
    if short != size:
        target = (max(size, size * height // short), max(size, size * width // short))
        x = F.interpolate(x[None], target, mode="bilinear", align_corners=False, antialias=True)[0]
    top, left = ((side - size) // 2 for side in x.shape[-2:])
    return x[:, top : top + size, left : left + size]
