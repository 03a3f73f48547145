"""The network: its encoders are ResNet-18 where they should be, its halves compose, everything in it learns."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from sslib.config import Model
from sslib.model import SoundLocalizer, load_imagenet, resnet_encoder

SMALL = {"width": 8, "blocks": (1, 1, 1, 1), "nodes": 6}


def resnet18() -> nn.Module:
    """torchvision's, with layer4 at stride 1."""
    network = torchvision.models.resnet18(weights=None)
    network.layer4[0].conv1.stride = network.layer4[0].downsample[0].stride = (1, 1)
    return network


def small(**changes) -> SoundLocalizer:
    torch.manual_seed(0)
    return SoundLocalizer(Model(**SMALL | changes))


def batch(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 64, 96, generator=generator), torch.randn(count, 1, 33, 40, generator=generator)


def test_encoder_has_the_parameters_of_resnet18():
    wanted = {name: value.shape for name, value in resnet18().state_dict().items() if not name.startswith("fc.")}
    assert {name: value.shape for name, value in resnet_encoder(3).state_dict().items()} == wanted
    learned = [name for name in wanted if "running" not in name and "num_batches" not in name]
    assert [name for name, _ in resnet_encoder(3).named_parameters()] == learned
    assert resnet_encoder(1).state_dict()["conv1.weight"].shape == (64, 1, 7, 7)


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_encoder_computes_resnet18(training):
    torch.manual_seed(0)
    theirs, ours = resnet18().train(training), resnet_encoder(3).train(training)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")})
    image = torch.randn(2, 3, 64, 96)
    found = ours(image)
    for name, part in theirs.named_children():
        if name not in ("avgpool", "fc"):
            image = part(image)
    assert found.shape == (2, 512, 4, 6)
    torch.testing.assert_close(found, image, rtol=1e-3, atol=2e-4)  # another memory format, another order of sums


def test_encoder_shrinks_in_width_and_depth():
    network = resnet_encoder(1, 8, (1, 2, 1, 3))
    assert [len(getattr(network, f"layer{i}")) for i in (1, 2, 3, 4)] == [1, 2, 1, 3]
    assert network(torch.zeros(1, 1, 64, 80)).shape == (1, 64, 4, 5)


def test_imagenet_weights_from_a_file(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    file = tmp_path / "resnet18.pth"
    torch.save(theirs, file)
    model = SoundLocalizer(Model(imagenet=file))
    for name, value in model.image_encoder.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert not torch.equal(model.audio_encoder.state_dict()["layer1.0.conv1.weight"], theirs["layer1.0.conv1.weight"])


class Command:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_imagenet_weights_that_cannot_be_used(tmp_path):
    def refused(content, says: str, width: int = 64) -> None:
        file = tmp_path / "weights.pth"
        torch.save(content, file)
        with pytest.raises(ValueError, match=says):
            load_imagenet(resnet_encoder(3, width, (2, 2, 2, 2)), file)

    theirs = torchvision.models.resnet18(weights=None).state_dict()
    refused(theirs, "do not fit", width=8)
    refused({name: value for name, value in theirs.items() if name != "bn1.weight"}, "do not fit")
    refused(torchvision.models.resnet34(weights=None).state_dict(), "do not fit")
    refused({"conv1.weight": Command(tmp_path / "ran")}, "could not be read")
    assert not (tmp_path / "ran").exists()
    refused([1, 2], "ImageNet weights")
    with pytest.raises(ValueError, match="could not be read"):
        load_imagenet(resnet_encoder(3), tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ValueError, match=r"text\.pth"):
        load_imagenet(resnet_encoder(3), tmp_path / "text.pth")


@torch.no_grad()
def test_halves_compose_to_forward():
    model, (image, spectrogram) = small().eval(), batch()
    output = model(image, spectrogram)
    assert output.visual.shape == (3, 64, 4, 6) and output.audio.shape == (3, 64)
    assert output.node_maps.shape == (3, 6, 4, 6) and output.node_features.shape == (3, 64, 6)
    torch.testing.assert_close(output.visual, model.encode_image(image))
    torch.testing.assert_close(output.audio, model.encode_audio(spectrogram))
    node_maps, node_features = model.visual_reasoning(output.visual)
    torch.testing.assert_close(output.node_maps, node_maps)
    torch.testing.assert_close(output.node_features, node_features)


@torch.no_grad()
def test_sound_is_a_unit_vector_at_the_maximum_of_its_map():
    model, (_, spectrogram) = small().eval(), batch()
    audio, raw = model.encode_audio(spectrogram), model.audio_encoder(spectrogram)
    for b in range(3):
        highest = torch.stack([raw[b, c].max() for c in range(64)])
        torch.testing.assert_close(audio[b], highest / highest.norm())


@torch.no_grad()
def test_similarity_is_the_cosine_of_every_cell():
    torch.manual_seed(2)
    visual, audio = 5 * torch.randn(2, 7, 3, 4), 0.1 * torch.randn(2, 7)
    maps = SoundLocalizer.similarity(visual, audio)
    for b in range(2):
        for y in range(3):
            for x in range(4):
                assert float(maps[b, y, x]) == pytest.approx(
                    float(F.cosine_similarity(visual[b, :, y, x], audio[b], dim=0)), abs=1e-6
                )
    assert maps.abs().max() <= 1 + 1e-6


def test_scale_is_no_part_of_the_maps():
    model, (image, spectrogram) = small(initial_scale=7.5).eval(), batch()
    assert float(model.scale.detach()) == 7.5 and model.scale.requires_grad
    output = model(image, spectrogram)
    assert model.similarity(output.visual, output.audio).abs().max() <= 1 + 1e-6


@torch.no_grad()
def test_node_features_are_products_of_maps():
    model, (image, _) = small().eval(), batch(2)
    visual = model.encode_image(image)
    node_maps, node_features = model.visual_reasoning(visual)
    weight = model.reasoning.filters.weight[:, :, 0, 0]
    assert model.reasoning.filters.bias is None
    torch.testing.assert_close(
        node_maps[1, 4], sum(weight[4, c] * visual[1, c] for c in range(64)), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(node_features[1, 9, 4], (visual[1, 9] * node_maps[1, 4]).sum(), rtol=1e-4, atol=1e-5)


def test_dropout_only_in_training_and_only_where_it_belongs():
    model, (image, _) = small(feature_dropout=0.5), batch(2)
    visual = model.eval().encode_image(image).detach()
    quiet = model.visual_reasoning(visual)
    assert all(torch.equal(a, b) for a, b in zip(quiet, model.visual_reasoning(visual), strict=True))
    model.train()
    torch.manual_seed(3)
    loud = model.visual_reasoning(visual)
    assert torch.equal(loud[0], quiet[0])  # node_dropout is 0
    assert not torch.allclose(loud[1], quiet[1])
    assert not torch.equal(small(node_dropout=0.5).train().visual_reasoning(visual)[0], quiet[0])


def test_base_model():
    model, (image, spectrogram) = small(reasoning=False).eval(), batch()
    output = model(image, spectrogram)
    assert output.node_maps is None and output.node_features is None
    assert not [name for name in model.state_dict() if "reasoning" in name or "foreground" in name]
    with pytest.raises(RuntimeError, match="no visual reasoning module"):
        model.visual_reasoning(output.visual)
    twin = small().eval()
    twin.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(twin(image, spectrogram).visual, output.visual)


@pytest.mark.parametrize(
    "frequency, chosen",
    [
        ([0.9, 0.5, 0.49, 0.0, 0.5, 1.0], [0, 1, 4, 5]),
        ([0.5] * 6, [0, 1, 2, 3, 4, 5]),
        ([0.1, 0.4, 0.3, 0.4, 0.0, 0.2], [1, 3]),  # none mostly: the most frequent ones
        ([0, 0, 1, 0, 0, 0], [2]),
    ],
)
def test_visual_only_takes_the_nodes_that_mostly_were_foreground(frequency, chosen):
    model = small()
    model.foreground_frequency.copy_(torch.tensor(frequency))
    node_maps = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(model.visual_only(node_maps), torch.stack([node_maps[:, k] for k in chosen]).mean(dim=0))
    torch.testing.assert_close(model.visual_only(node_maps, all_nodes=True), sum(node_maps[:, k] for k in range(6)) / 6)


@pytest.mark.parametrize("reasoning", [True, False])
def test_gradients_reach_every_parameter(reasoning):
    from sslib.config import Objective
    from sslib.losses import objective

    model, (image, spectrogram) = small(reasoning=reasoning).train(), batch(4)
    result = objective(model(image, spectrogram), model.scale, Objective(foreground=3, background=3))
    result.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        assert parameter.grad.isfinite().all(), name
