"""The figures of merit of DualToken's evaluation script."""

import numpy as np
from harness import nhwc

from unitok_jax.evaluation import metrics

TOLERANCE = 1e-5  # the README's


def check(case):
    image, recon = nhwc(case.input("image")), nhwc(case.input("recon"))
    error = recon.astype(np.float64) - image
    case.compare("L1", np.abs(error).mean(), TOLERANCE)
    case.compare("L2", np.square(error).mean(), TOLERANCE)
    case.compare("psnr", metrics.reconstruction_psnr(recon, image), TOLERANCE)
    similar = metrics.ssim(recon, image)
    case.compare("ssim_per_image", similar, TOLERANCE)
    case.compare("ssim", similar.mean(), TOLERANCE)
    codes = case.input("codes")
    histogram = metrics.code_histogram(codes, case.config["K"])
    case.compare("usage", histogram.astype(np.int32))
    case.compare("used", np.int64((histogram > 0).sum()))
    case.compare("kl_to_uniform", metrics.kl_to_uniform(histogram), TOLERANCE)
    case.compare("entropy_fraction", metrics.entropy_fraction(histogram), TOLERANCE)
    case.compare("per_image_entropy", metrics.code_entropy(codes), TOLERANCE)
