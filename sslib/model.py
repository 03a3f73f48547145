"""The network: two residual encoders, the visual reasoning module, and the cosine between them. No loss in here."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sslib.config import InputError, Model


class Output(NamedTuple):
    """The result of one forward pass over B images and their sounds."""

    visual: Float[Tensor, "B C h w"]
    audio: Float[Tensor, "B C"]
    node_maps: Float[Tensor, "B K h w"] | None
    node_features: Float[Tensor, "B C K"] | None
    silent: Float[Tensor, "S C"] | None = None  # sounds of no image, to train against


def resnet_encoder(channels: int, width: int = 64, blocks: tuple[int, ...] = (2, 2, 2, 2)) -> nn.Sequential:
    """Build a residual network without classifier, layer4 with stride 1, with torchvision's parameter names.

    At ``width=64, blocks=(2, 2, 2, 2)`` it is ResNet-18 and loads its weights. It reduces an image 16 times and has
    ``8 * width`` channels.
    """
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)),
        ("bn1", nn.BatchNorm2d(width)),
        ("relu", nn.ReLU(inplace=True)),
        ("maxpool", nn.MaxPool2d(3, stride=2, padding=1)),
    ]
    inside = width
    for stage, (count, stride) in enumerate(zip(blocks, (1, 2, 2, 1), strict=True)):
        outside = width * 2**stage
        layers.append((f"layer{stage + 1}", _stage(inside, outside, count, stride)))
        inside = outside
    network = nn.Sequential(OrderedDict(layers))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network.to(memory_format=torch.channels_last)  # a third faster convolutions, on CPUs too


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016), 1x1 where the shape changes.

    Torchvision's own takes 3.5 s and 170 MB to import: it brings torch's compiler along.
    """

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        shortcut = None
        if stride != 1 or inside != outside:
            shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample = shortcut  # made first and named last, as torchvision does: the same random weights

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True))) + shortcut, inplace=True)


def _stage(inside: int, outside: int, count: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(inside, outside, stride), *(BasicBlock(outside, outside, 1) for _ in range(count - 1))
    )


class VisualReasoning(nn.Module):
    """Look for K kinds of things (nodes) in the visual map by K learned 1x1 filters (paper section 3.2).

    `feature_dropout` acts on the visual map where it is pooled into node features, `node_dropout` on the node maps.
    """

    def __init__(self, channels: int, nodes: int = 16, feature_dropout: float = 0.1, node_dropout: float = 0.0):
        super().__init__()
        self.filters = nn.Conv2d(channels, nodes, 1, bias=False)
        self.feature_dropout = nn.Dropout(feature_dropout)
        self.node_dropout = nn.Dropout(node_dropout)

    def forward(self, visual: Float[Tensor, "B C h w"]) -> tuple[Float[Tensor, "B K h w"], Float[Tensor, "B C K"]]:
        node_maps = self.node_dropout(self.filters(visual))
        node_features = torch.einsum("bchw,bkhw->bck", self.feature_dropout(visual), node_maps)
        return node_maps, node_features


class SoundLocalizer(nn.Module):
    """Find where in an image a sound comes from: cosine of every cell of the visual map with the sound's vector.

    The halves can be used alone: :meth:`encode_image`, :meth:`encode_audio`, :meth:`similarity`,
    :meth:`visual_reasoning`, :meth:`visual_only`. ``scale`` multiplies cosines in the losses only; maps that leave the
    model are raw. Without ``reasoning`` in the configuration it is the base model.
    """

    def __init__(self, config: Model):
        super().__init__()
        self.image_encoder = resnet_encoder(3, config.width, config.blocks)
        self.audio_encoder = resnet_encoder(1, config.width, config.blocks)
        self.scale = nn.Parameter(torch.tensor(float(config.initial_scale)))
        self.reasoning: VisualReasoning | None = None
        if config.reasoning:
            channels = 8 * config.width
            self.reasoning = VisualReasoning(channels, config.nodes, config.feature_dropout, config.node_dropout)
            # How often each node was among the foreground nodes recently: what is known without a sound.
            self.register_buffer("foreground_frequency", torch.full((config.nodes,), 0.5))
        if config.imagenet:
            load_imagenet(self.image_encoder, config.imagenet)

    def encode_image(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Compute the visual map of normalized images; one cell is 16 pixels."""
        return self.image_encoder(image)

    def encode_audio(self, spectrogram: Float[Tensor, "B 1 F T"]) -> Float[Tensor, "B C"]:
        """Compute a vector of unit length for each sound: its audio map at the maximum over frequency and time."""
        return F.normalize(self.audio_encoder(spectrogram).amax(dim=(2, 3)), dim=1)

    @staticmethod
    def similarity(visual: Float[Tensor, "B C h w"], audio: Float[Tensor, "B C"]) -> Float[Tensor, "B h w"]:
        """Compute the raw cosine in [-1, 1] of each cell with the sound of the same row (equation 1 without scale)."""
        return torch.einsum("bchw,bc->bhw", F.normalize(visual, dim=1), F.normalize(audio, dim=1))

    def visual_reasoning(
        self, visual: Float[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B K h w"], Float[Tensor, "B C K"]]:
        """Compute node maps and node features; a ``RuntimeError`` where there is no reasoning module."""
        if self.reasoning is None:
            raise RuntimeError("this model has no visual reasoning module (model.reasoning is false)")
        return self.reasoning(visual)

    def visual_only(self, node_maps: Float[Tensor, "B K h w"], all_nodes: bool = False) -> Float[Tensor, "B h w"]:
        """Localize without sound: mean of the nodes that mostly were foreground in training.

        The paper names visual-only inference without saying how nodes are chosen when there is no sound; this choice
        is ours. ``all_nodes=True`` gives the plain mean of all nodes instead.
        """
        if all_nodes:
            return node_maps.mean(dim=1)
        chosen = self.foreground_frequency >= min(0.5, float(self.foreground_frequency.max()))
        return node_maps[:, chosen].mean(dim=1)

    def forward(self, image: Float[Tensor, "B 3 H W"], spectrogram: Float[Tensor, "N 1 F T"]) -> Output:
        """Encode images and sounds: the first B are the images' own, more of them are sounds of no image."""
        visual, audio = self.encode_image(image), self.encode_audio(spectrogram)
        nodes = self.visual_reasoning(visual) if self.reasoning is not None else (None, None)
        count = len(image)
        return Output(visual, audio[:count], *nodes, audio[count:] if len(audio) > count else None)


def load_imagenet(network: nn.Sequential, source: bool | Path) -> None:
    """Put ImageNet weights of ResNet-18 into an image encoder, from a local file or torchvision's own download.

    Raises ``InputError`` when they cannot be had, or do not fit (only width 64, blocks 2,2,2,2 is ResNet-18).
    """
    try:
        if isinstance(source, Path):
            weights = torch.load(source, map_location="cpu", weights_only=True)
        else:
            from torchvision.models import ResNet18_Weights

            weights = ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        advice = "give the path of a local ResNet-18 state dict (torchvision's resnet18-*.pth)"
        raise InputError(f"ImageNet weights could not be read ({source}): {error}; {advice}") from error
    try:
        network.load_state_dict({name: value for name, value in weights.items() if not name.startswith("fc.")})
    except (RuntimeError, AttributeError) as error:
        raise InputError(
            f"ImageNet weights {source} do not fit the encoder (width 64, blocks 2,2,2,2): {error}"
        ) from error
