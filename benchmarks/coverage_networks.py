"""The networks of `benchmarks/coverage.py`: torchvision's and the smallest of timm's families, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn
from torchvision import models

IMAGE = 96  # pixels; a network that wants other ones gets its own size
VISION_SIZES = {"inception_v3": 128, "maxvit_t": 224, "alexnet": 128, "vit_h_14": 112, "ssd300_vgg16": 300}
_TIMM_NAMES = """
lcnet_035 starnet_s050 dla46_c edgenext_xx_small mobilevit_xxs mobilevitv2_050 mobilenetv3_small_050 mnasnet_small
efficientvit_m0 repghostnet_050 ghostnet_050 regnetx_002 cspnext_tiny xcit_nano_12_p16_224 regnety_002
ese_vovnet19b_slim cs3darknet_s ghostnetv3_050 efficientvit_b0 swiftformer_xs efficientformerv2_s0 convnext_atto
convnextv2_atto pvt_v2_b0 mobilenetv4_conv_small fasternet_t0 fastvit_t8 mixnet_s lcnetv2_small inception_next_atto
pit_ti_224 rexnet_100 efficientnet_b0 efficientnet_b0_gn mobileone_s0 resnet10t hardcorenas_a repvit_m0_9 coat_tiny
coat_lite_tiny fbnetc_100 hgnetv2_b0 ghostnetv2_100 vit_tiny_r_s16_p8_224 shvit_s1 cpubone_nano iformer_s
efficientvim_m1 tf_efficientnetv2_b0 mambaout_femto levit_128s densenet121 densenetblur121d gernet_s fbnetv3_b
nf_regnet_b0 crossvit_9_240 repvgg_a0 dpn48b regnetz_b16 visformer_tiny eca_resnext26ts gcresnext26ts resnest14d
bat_resnext26ts coatnet_pico_rw_224 lambda_resnet26t csatv2 mobilenetv4_hybrid_medium legacy_seresnet18 resnetv2_18
poolformer_s12 skresnet18 gcvit_xxtiny tiny_vit_5m_224 efficientformer_l1 botnet26t_256 halonet26t dpn68
hrnet_w18_small lowformer_b0 hgnet_tiny nf_resnet26 ecaresnet26t seresnext26d_32x4d nest_tiny mixer_s32_224
dla60_res2net convmixer_768_32 cspresnet50 vitamin_small_224 legacy_xception maxxvitv2_nano_rw_256 inception_v3
rdnet_tiny twins_svt_small eca_nfnet_l0 mvitv2_tiny res2net50_14w_8s resnetblur50 resnetv2_50d_frn resnetv2_50d_evos
caformer_s18 volo_d1_224 convformer_s18 xception41 cspdarknet53 sequencer2d_s hiera_tiny_224
swin_tiny_patch4_window7_224 davit_tiny focalnet_tiny_srf maxvit_tiny_rw_224 selecsls42 tresnet_m nextvit_small
darknet53 inception_v4 inception_resnet_v2 mobilenetv5_base pnasnet5large nasnetalarge
"""
FAMILIES = tuple(_TIMM_NAMES.split())


@dataclass(frozen=True)
class Subject:
    """A network as it is measured.

    Attributes:
        part: what of it takes one tensor of images; empty for all of it.
    """

    network: nn.Module
    image: Tensor
    part: str = ""


def list_networks() -> list[str]:
    """All names, as `suite/name`; timm's first, since they are smaller."""
    suites = {
        "timm": FAMILIES,
        "classification": models.list_models(models),
        "segmentation": models.list_models(models.segmentation),
        "detection": models.list_models(models.detection),
    }
    return [f"{suite}/{name}" for suite, names in suites.items() for name in names]


def build_subject(full_name: str) -> Subject:
    """A network with weights from seed 0, in evaluation mode, and one image that it takes."""
    torch.manual_seed(0)
    suite, _, name = full_name.partition("/")
    part = ""
    if suite == "timm":
        network = timm.create_model(name)
        own_size = int(network.default_cfg["input_size"][-1])
    elif suite == "classification":
        own_size = VISION_SIZES.get(name, IMAGE)
        network = models.get_model(name, weights=None, **({"image_size": own_size} if name.startswith("vit_") else {}))
    else:
        own_size = VISION_SIZES.get(name, 128)
        network = models.get_model(name, weights=None, weights_backbone=None)
        if suite == "detection":
            network, part = DetectorWithoutBoxes(network), "all but the selection of boxes"
    network.eval()
    perturb_vectors(network)
    sizes = [IMAGE, own_size] if suite == "timm" else [own_size]
    image = next(_accepted_images(network, sizes))
    return Subject(network, image, part)


def _accepted_images(network: nn.Module, sizes: list[int]) -> Iterator[Tensor]:
    for number, size in enumerate(sizes):
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                network(image)
        except Exception:  # whatever a network says of the wrong size
            if number == len(sizes) - 1:
                raise
        else:
            yield image


@torch.no_grad()
def perturb_vectors(network: nn.Module) -> None:
    """Vectors (norms, biases, scales, statistics) as after training: fresh zeros and ones hide a wrong channel.

    A matrix of zeros (torchvision's heads of ViT) gets values as well.
    """
    generator = torch.Generator().manual_seed(1)
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    for name, tensor in tensors.items():
        if tensor.dim() > 1 and not tensor.any():
            tensor.normal_(0, 0.02, generator=generator)
        elif tensor.is_floating_point() and tensor.squeeze().dim() <= 1 and tensor.numel() > 1:
            noise = torch.rand(tensor.shape, generator=generator)
            is_scale = name.endswith(("weight", "var")) or bool((tensor == 1).all())
            tensor.mul_(0.75 + 0.5 * noise) if is_scale else tensor.add_(0.4 * noise - 0.2)


class DetectorWithoutBoxes(nn.Module):
    """A detector as a function of one tensor: backbone and heads; regions of interest are fixed ones."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.detector.backbone(images)
        levels = list(features.values())
        if not hasattr(self.detector, "roi_heads"):
            return list(self.detector.head(levels).values())
        outputs = [tensor for pair in self.detector.rpn.head(levels) for tensor in pair]
        size = images.shape[-1]
        boxes = [images.new_tensor([[0.0, 0.0, size / 2, size / 2], [0.0, 0.0, size, size]]) for _ in images]
        heads, shapes = self.detector.roi_heads, [tuple(images.shape[-2:])] * len(images)
        parts: list[tuple[str, Callable[[Tensor], object]]] = [
            ("box", lambda pooled: heads.box_predictor(heads.box_head(pooled))),
            ("mask", lambda pooled: heads.mask_predictor(heads.mask_head(pooled))),
            ("keypoint", lambda pooled: heads.keypoint_predictor(heads.keypoint_head(pooled))),
        ]
        for part, run_head in parts:
            if getattr(heads, f"{part}_roi_pool", None) is not None:
                pooled = getattr(heads, f"{part}_roi_pool")(features, boxes, shapes)
                head_outputs = run_head(pooled)
                outputs += [head_outputs] if isinstance(head_outputs, Tensor) else list(head_outputs)
        return outputs
