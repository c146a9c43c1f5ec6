"""From a shipped model back to networks that can be trained: what folding did, undone.

Folding puts a batch norm's statistics into the weights beside it, and forgets them. What comes back
computes the same; its batch norms change nothing, not in training either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from .bundle import Bundle, ModelError
from .causal import CausalNet
from .segments import SegmentDater, SegmentVerifier

#: What the unfolded may differ by from the file, in logits and seconds.
TOLERANCE: Final = 1e-3


@dataclass
class Unfolded:
    """A model file's networks in their training form, in eval mode."""

    net: CausalNet
    verifier: SegmentVerifier
    dater: SegmentDater


class _Kept(nn.BatchNorm1d):
    """A batch norm with the statistics that it was given, in training too."""

    def __init__(
        self, norm: nn.BatchNorm1d, mean: Tensor | float = 0.0, gain: Tensor | float = 1.0
    ) -> None:
        super().__init__(norm.num_features, norm.eps, affine=norm.affine)
        assert self.running_mean is not None
        assert self.running_var is not None
        with torch.no_grad():
            self.running_mean.copy_(torch.as_tensor(mean))
            self.running_var.copy_(torch.as_tensor(gain) ** -2 - self.eps)
        self.eval()

    def train(self, mode: bool = True) -> _Kept:
        return super().train(False)


def unfolded(bundle: Bundle) -> Unfolded:
    """The networks of a model file that ``causal.export`` wrote; raises ModelError for others."""
    m, refused = bundle.metadata, f"{bundle.metadata.name} cannot be trained on"
    whole = m.training.get("isolated", False)
    if m.kind != "streaming" or whole or not hasattr(bundle.module, "weights"):
        raise ModelError(
            f"{refused}: only models that hgr train --online made can be, as leap, hololens and any"
        )
    weights: dict[str, Tensor] = bundle.module.weights()
    classes = len(m.labels)
    try:
        net = CausalNet(classes, weights["stem_bias"].numel())
        verifier = SegmentVerifier(classes, m.rate_hz, weights["verifier.conv1.bias"].numel())
        dater = SegmentDater(m.rate_hz, weights["dater.conv1.bias"].numel())
        _fill_net(net, weights)
        for segment, prefix in ((verifier, "verifier."), (dater, "dater.")):
            own = {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}
            _fill_segment(segment, own)
    except (KeyError, RuntimeError, IndexError) as error:
        raise ModelError(f"{refused}: it is built otherwise ({error})") from None
    found = Unfolded(net.eval(), verifier.eval(), dater.eval())
    if not _same(found, bundle):
        raise ModelError(f"{refused}: it is built otherwise")
    return found


@torch.no_grad()
def _fill_net(net: CausalNet, weights: Mapping[str, Tensor]) -> None:
    net.norm_in = _Kept(net.norm_in)
    net.stem.weight.copy_(weights["stem_weight"].T)
    net.stem.bias.copy_(weights["stem_bias"])
    for i, (conv, norm, mix) in enumerate(zip(net.convs, net.norms, net.mixes, strict=True)):
        assert isinstance(conv, nn.Conv1d)
        assert isinstance(mix, nn.Conv1d)
        assert isinstance(norm, nn.BatchNorm1d)
        taps = [*weights["past_weight"][i].split(net.width), weights["now_weight"][i]]
        conv.weight.copy_(torch.stack([tap.T for tap in taps], 2))
        mix.weight.copy_(weights["mix_weight"][i].T.unsqueeze(2))
        net.norms[i] = kept = _Kept(norm)
        kept.bias.copy_(weights["past_bias"][i].flatten())
    net.head.weight.copy_(weights["head_weight"].T)
    net.head.bias.copy_(weights["head_bias"])


def _fill_segment(net: SegmentVerifier | SegmentDater, weights: Mapping[str, Tensor]) -> None:
    net.norm_in = _Kept(net.norm_in, weights["mean"], weights["gain"])
    net.norm1, net.norm2, net.norm3 = _Kept(net.norm1), _Kept(net.norm2), _Kept(net.norm3)
    state = net.state_dict()
    net.load_state_dict({**state, **{k: w for k, w in weights.items() if k in state}})


@torch.inference_mode()
def _same(found: Unfolded, bundle: Bundle) -> bool:
    """Whether they say of a hand that moves at random what the file says."""
    drawn = torch.Generator().manual_seed(0)
    joints = 0.1 * torch.randn(1, 80, 22, 3, generator=drawn).cumsum(1) / 8
    theirs, module = found.net(joints), bundle.module
    pairs = [*zip(theirs, module(joints, module.initial_state(1))[:3], strict=True)]
    pairs.append((found.verifier(joints), module.verify(joints)))
    pairs.append((found.dater(joints), module.refine(joints)))
    return all(a.shape == b.shape and bool(((a - b).abs() < TOLERANCE).all()) for a, b in pairs)
