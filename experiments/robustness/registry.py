"""Attacks by name: from the setting `attacks` to objects."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from experiments.common import UserError
from experiments.robustness.attacks import FGSM, PGD, Attack
from experiments.robustness.autoattack import AutoAttack

KINDS: dict[str, type[Attack]] = {kind.__name__.lower(): kind for kind in (FGSM, PGD, AutoAttack)}
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
        UserError: If a name or a setting is unknown or out of its range, or a package is missing.
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
    """The settings of an attack, sizes in [0,1], for `evaluation.json`."""
    return {"kind": type(attack).__name__.lower(), **asdict(attack)}


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise UserError(
            f"attacks must be among {sorted(PRESETS)}, got {name!r}; others need their settings, as in "
            f"'attacks=[{{name: {name}, kind: pgd, eps: 8/255, step: 2/255, steps: 50}}]'"
        )
    return {"name": name, **PRESETS[name]}


def _build(name: str, settings: dict[str, Any]) -> Attack:
    kind = settings.pop("kind", None)
    if kind not in KINDS:
        raise UserError(f"kind of the attack {name} must be one of {sorted(KINDS)}, got {kind!r}")
    try:
        sizes = {key: float(Fraction(str(settings[key]))) for key in ("eps", "step") if key in settings}
        return KINDS[kind](**{**settings, **sizes})
    except UserError:
        raise
    # TypeError: an unknown or missing setting.
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"attack {name}: {error}") from error
