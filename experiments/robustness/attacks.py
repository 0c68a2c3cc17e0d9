"""Attacks of bounded size on pixels in [0,1]: FGSM, PGD, AutoAttack."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, Field, PositiveInt, TypeAdapter, ValidationError
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from experiments.common import UserError, require

Model = Callable[[Tensor], Tensor]
# A number in (0,1], or a fraction such as 8/255.
Size = Annotated[float, BeforeValidator(lambda size: float(Fraction(str(size)))), Field(gt=0, le=1)]


class Attack(BaseModel, frozen=True, extra="forbid"):
    """Changes every pixel by at most `eps` so that the classification becomes wrong."""

    kind: str
    eps: Size

    @abstractmethod
    def __call__(self, model: Model, pixels: Tensor, targets: Tensor, *, seed: int = 0) -> Tensor:
        """Attack pixels (B,C,H,W) in [0,1] of classes (B,); NaN where the gradient of the logits (B,K) of `model` is."""


class FGSM(Attack):
    """The fast gradient sign method: one step of size `eps` (Goodfellow et al., ICLR 2015, section 4)."""

    kind: Literal["fgsm"] = "fgsm"

    @override
    def __call__(self, model: Model, pixels: Tensor, targets: Tensor, *, seed: int = 0) -> Tensor:
        return (pixels + self.eps * _gradient_sign(model, pixels, targets)).clamp(0, 1)


class PGD(Attack):
    """Projected gradient descent: signed steps, each followed by a clip to the ball (Madry et al., ICLR 2018, section 2.1).

    It starts at the image or, with `random_start`, at a uniformly drawn point of the ball, clipped to [0,1].
    """

    kind: Literal["pgd"] = "pgd"
    step: Size
    steps: PositiveInt = 20
    random_start: bool = True

    @override
    def __call__(self, model: Model, pixels: Tensor, targets: Tensor, *, seed: int = 0) -> Tensor:
        low, high = (pixels - self.eps).clamp(min=0), (pixels + self.eps).clamp(max=1)
        attacked = pixels
        if self.random_start:
            # Drawn on the CPU: the same start on every device.
            noise = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed)).to(pixels) * 2 - 1
            attacked = (pixels + self.eps * noise).clamp(0, 1)
        for _ in range(self.steps):
            attacked = attacked + self.step * _gradient_sign(model, attacked, targets)
            # Not clamp(low, high): minimum and maximum are sure to keep NaN.
            attacked = torch.minimum(torch.maximum(attacked, low), high)
        return attacked


class AutoAttack(Attack):
    """AutoAttack's standard ensemble (Croce and Hein, ICML 2020); an image that withstands it takes a thousand passes."""

    kind: Literal["autoattack"] = "autoattack"

    @override
    def __call__(self, model: Model, pixels: Tensor, targets: Tensor, *, seed: int = 0) -> Tensor:
        import pyautoattack

        with torch.no_grad():
            classes = model(pixels[:1]).shape[1]
        if classes < 4:
            raise UserError(f"AutoAttack's targeted loss needs at least 4 classes, the model has {classes}")
        attack = pyautoattack.AutoAttack(model, eps=self.eps, seed=seed, device=pixels.device)
        for part in (attack.apgd_targeted, attack.fab):
            part.n_target_classes = min(9, classes - 1)
        attacked, _ = attack.run_standard_evaluation(pixels, targets, batch_size=len(pixels))
        return attacked.clamp(0, 1)


def _gradient_sign(model: Model, pixels: Tensor, targets: Tensor) -> Tensor:
    """Signs in {-1,0,1} of the gradient of the cross-entropy, summed over the batch, as a mean could underflow."""
    pixels = pixels.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(pixels), targets, reduction="sum"), pixels)
    # torch.sign would turn NaN into 0, which would pass for an attack that failed.
    return torch.where(gradient.isnan(), gradient, gradient.sign())


# conf/evaluate.yaml runs the first three; the last takes hours.
PRESETS: dict[str, Attack] = {
    "fgsm_4": FGSM(eps=4 / 255),
    "fgsm_8": FGSM(eps=8 / 255),
    "pgd_20": PGD(eps=4 / 255, step=2 / 255, steps=20),
    "autoattack": AutoAttack(eps=4 / 255),
}
ANY_ATTACK = TypeAdapter(Annotated[FGSM | PGD | AutoAttack, Field(discriminator="kind")])


def build_attacks(chosen: Sequence[str | Mapping[str, Any]] | None) -> dict[str, Attack]:
    """Attacks by name: those of `PRESETS`, or of settings as in `{name: pgd_50, kind: pgd, eps: 8/255, step: 2/255}`."""
    attacks: dict[str, Attack] = {}
    for each in chosen or []:
        settings = dict(each) if isinstance(each, Mapping) else {"name": each}
        name = settings.pop("name", None)
        if not name or name in attacks or not (settings or name in PRESETS):
            known = f"{sorted(PRESETS)}, or have a name and settings of their own, each name once"
            raise UserError(f"attacks must be among {known}; got {each!r}")
        try:
            attacks[name] = ANY_ATTACK.validate_python(settings) if settings else PRESETS[name]
        except ValidationError as error:
            raise UserError(f"attack {name}, whose sizes must be in (0, 1], such as 8/255: {error}") from error
        if isinstance(attacks[name], AutoAttack):
            require("pyautoattack", f"attack {name}")
    return attacks
