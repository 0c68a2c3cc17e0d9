"""From the setting `attacks` to attacks."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from experiments.common.errors import UserError
from experiments.robustness.attacks import FGSM, PGD, Attack
from experiments.robustness.autoattack import AutoAttack

KINDS: dict[str, type[Attack]] = {"fgsm": FGSM, "pgd": PGD, "autoattack": AutoAttack}
# conf/evaluate.yaml runs the first three; the last takes hours.
PRESETS: dict[str, dict[str, Any]] = {
    "fgsm_4": {"kind": "fgsm", "eps": "4/255"},
    "fgsm_8": {"kind": "fgsm", "eps": "8/255"},
    "pgd_20": {"kind": "pgd", "eps": "4/255", "step": "2/255", "steps": 20},
    "autoattack": {"kind": "autoattack", "eps": "4/255"},
}


def build_attacks(chosen: Sequence[str | Mapping[str, Any]] | None) -> dict[str, Attack]:
    """Attacks by name, in the given order.

    Args:
        chosen: Names in `PRESETS`, or settings as in `{name: pgd_50, kind: pgd, eps: 8/255, step: 2/255, steps: 50}`; sizes
            are fractions or numbers in (0,1]. None: no attack.

    Raises:
        UserError: If a name or a setting is not known or out of its range, or a package is missing.
    """
    attacks: dict[str, Attack] = {}
    for each in chosen or []:
        settings = dict(each) if isinstance(each, Mapping) else _preset(str(each))
        name = str(settings.pop("name", ""))
        if not name or name in attacks:
            raise UserError(f"attacks need a name each, and each another one; got {each}")
        attacks[name] = _build(name, settings)
    return attacks


def describe_attack(attack: Attack) -> dict[str, Any]:
    """The settings of an attack, sizes in [0,1], for the report."""
    kind = next(name for name, known in KINDS.items() if type(attack) is known)
    return {"kind": kind, **vars(attack)}


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise UserError(
            f"attacks must be among {sorted(PRESETS)}, got {name!r}; others need their settings, as in "
            f"'attacks=[{{name: {name}, kind: pgd, eps: 8/255, step: 2/255, steps: 50}}]'"
        )
    return {"name": name, **PRESETS[name]}


def _build(name: str, settings: Mapping[str, Any]) -> Attack:
    values = dict(settings)
    kind = values.pop("kind", None)
    if kind not in KINDS:
        raise UserError(f"kind of the attack {name} must be one of {sorted(KINDS)}, got {kind!r}")
    try:
        for size in {"eps", "step"} & set(values):
            values[size] = float(Fraction(str(values[size])))
        return KINDS[kind](**values)
    except UserError:
        raise
    # TypeError: a setting that the attack does not have, or lacks.
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"attack {name}: {error}") from error
