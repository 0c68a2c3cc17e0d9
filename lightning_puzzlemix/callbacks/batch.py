"""Find images and targets in what a DataLoader yields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_puzzlemix.callbacks.candidates import (
    image_candidates,
    image_hints,
    pick_image,
    pick_target,
    sounds_like_id,
    target_candidates,
    target_hints,
)
from lightning_puzzlemix.callbacks.containers import (
    Key,
    Keys,
    Path,
    as_keys,
    describe,
    entries_of,
    is_container,
    joined,
    names_of,
    nested_hints,
    read,
    replaced,
)
from lightning_puzzlemix.targets import target_advice
from lightning_puzzlemix.validation import check_channels_first, describe_value

__all__ = [
    "BatchKeys",
    "Key",
    "Keys",
    "Location",
    "Path",
    "describe",
    "find_keys",
    "find_samples",
    "read",
    "replaced",
]


@dataclass(frozen=True)
class BatchKeys:
    """Under which keys of a batch the images and the targets lie: names, or positions in a list or tuple.

    Attributes:
        images: The images; where there are several views, the one that decides how all are mixed.
        targets: The targets; where there are several forms, the one that the saliency is taken for.
        other_images: Further views of the same images.
        other_targets: Further forms of the same targets.
    """

    images: Key
    targets: Key
    other_images: tuple[Key, ...] = ()
    other_targets: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Location:
    """Where a nested batch holds one pair of images and targets: the keys to follow from the outside in.

    Attributes are those of :class:`BatchKeys`, as paths.
    """

    images: Path
    targets: Path
    other_images: tuple[Path, ...] = ()
    other_targets: tuple[Path, ...] = ()


class _NotHereError(ValueError):
    """A container holds no images or no targets itself."""


def _given(batch: Any, argument: str, keys: Keys) -> tuple[Key, ...]:
    """Return the entries that an argument names, as the keys that the batch has them under."""
    entries, found = entries_of(batch), []
    for key in as_keys(keys):
        position = key + len(entries) if isinstance(key, int) and key < 0 else key
        if position not in entries:
            raise _NotHereError(f"{argument}={key!r} is not in the batch ({describe(batch)}): name one of its entries")
        found.append(position)
    return tuple(found)


def _choose_images(batch: Any, image_key: Keys | None) -> tuple[Key, ...]:
    """Return the images that are named, or all that could be them."""
    entries = entries_of(batch)
    if image_key is not None:
        return _given(batch, "image_key", image_key)
    candidates = image_candidates(entries)
    if not candidates:
        raise _NotHereError(
            f"found no images (a (B, C, H, W) tensor) in the batch ({describe(batch)}){image_hints(entries)}: pass image_key="
        )
    picked = pick_image(candidates, names_of(batch))
    return tuple(candidates) if picked is None else (picked,)


def _choose_targets(batch: Any, images: tuple[Key, ...], target_key: Keys | None) -> tuple[Key, ...]:
    """Return the targets that are named, or all that could be them."""
    if target_key is not None:
        return _given(batch, "target_key", target_key)
    entries, names = entries_of(batch), names_of(batch)
    others, count = {key: value for key, value in entries.items() if key not in images}, len(entries[images[0]])
    candidates = target_candidates(others, count)
    picked = pick_target(candidates, names, entries)
    if picked is not None and sounds_like_id(names.get(picked, "")):
        candidates = []
    if not candidates:
        raise _NotHereError(
            f"found no targets ((B,) integer classes or (B, classes) float probabilities) in the batch ({describe(batch)})"
            f"{target_hints(others, count)}: pass target_key=, or leave mixing out where there are none, since it mixes both"
        )
    return tuple(candidates) if picked is None else (picked,)


def _several(what: str, keys: Sequence[Any], batch: Any, argument: str, as_what: str) -> ValueError:
    return ValueError(
        f"found several {what} {list(keys)} in the batch ({describe(batch)}): pass {argument}= to name the one that is "
        f"mixed, or {argument}={list(keys)} if they are {as_what}, to mix all alike"
    )


def find_keys(batch: Any, image_key: Keys | None = None, target_key: Keys | None = None) -> BatchKeys:
    """Find out where a batch holds its images and targets.

    Images are (B, C, H, W) tensors; targets are (B,) integers or (B, classes) floats. Where only one entry can be either, it
    is taken; of several the one with a usual name, if there are names and none of the others may be a second view or another
    form of the label.

    Args:
        batch: A list, tuple, namedtuple, mapping or dataclass.
        image_key: Where the images are, if known; a list names several views of them, the first of which decides.
        target_key: Where the targets are, if known; a list names several forms of them.

    Raises:
        TypeError: If the batch is no such container, or what is named no tensor.
        ValueError: If they are not found, or not uniquely, or what is named does not fit.
    """
    images = _choose_images(batch, image_key)
    entries = entries_of(batch)
    for key in images:
        if not isinstance(entries[key], Tensor):
            raise TypeError(f"image_key={key!r} must name a tensor of images, got {type(entries[key]).__name__}")
    targets = _choose_targets(batch, images, target_key)
    if image_key is None and len(images) > 1:
        raise _several("images", images, batch, "image_key", "views of the same images")
    if target_key is None and len(targets) > 1:
        raise _several("targets", targets, batch, "target_key", "forms of the same label")
    if image_key is None:
        _refuse_nested_views(batch, images[0])
    return BatchKeys(images[0], targets[0], images[1:], targets[1:])


def _refuse_nested_views(batch: Any, images: Key) -> None:
    """Refuse further images inside containers beside ours, which would stay unmixed; pairs with their own targets may."""
    for key, value in entries_of(batch).items():
        path = next(_loose_images(value, (key,)), None) if is_container(value) else None
        if path is not None:
            named = ".".join(str(part) for part in path)
            raise ValueError(
                f"found several images [{images!r}, {named!r}] in the batch ({describe(batch)}): pass image_key= and "
                f"target_key= to name those that are mixed, or image_key=[{images!r}, {named!r}] to mix both alike"
            )


def _loose_images(batch: Any, path: Path) -> Iterator[Path]:
    entries = entries_of(batch)
    candidates = image_candidates(entries)
    if candidates:
        try:
            _choose_targets(batch, tuple(candidates), None)
        except _NotHereError:
            yield (*path, candidates[0])
        return
    for key, value in entries.items():
        if is_container(value):
            yield from _loose_images(value, (*path, key))


def find_samples(batch: Any, image_key: Keys | None = None, target_key: Keys | None = None) -> list[Location]:
    """Find every pair of images and targets in a batch, however deeply it is nested.

    A container that holds both is one pair, and is not searched further. In any other the entries that are containers are
    searched, as the batches of CombinedLoader are; those without images or targets are left alone.

    Args:
        batch: What a DataLoader yields.
        image_key: Where the images are, if known: a key, or a path of keys such as ``"labeled.0"``; a list of them for
            several views.
        target_key: Where the targets are, if known; a path too where the other is one; a list for several forms.

    Raises:
        TypeError: If the batch is no container, or what is named no tensor.
        ValueError: If there is no such pair, one is ambiguous, or what is named does not fit.
    """
    if any(map(_is_path, (*as_keys(image_key), *as_keys(target_key)))):
        if image_key is None or target_key is None:
            raise ValueError(
                f"image_key={image_key!r} and target_key={target_key!r} must both be given where one is a path"
            )
        images = [_resolved(batch, "image_key", key) for key in as_keys(image_key)]
        targets = [_resolved(batch, "target_key", key) for key in as_keys(target_key)]
        found = [Location(images[0], targets[0], tuple(images[1:]), tuple(targets[1:]))]
    else:
        found = []
        _search(batch, (), image_key, target_key, found)
        if not found:
            _refuse(batch, image_key, target_key)
    for location in found:
        _check_entries(batch, location, target_key)
    return found


def _refuse(batch: Any, image_key: Keys | None, target_key: Keys | None) -> None:
    """Say what a batch without a pair of images and targets holds, also in the containers in it."""
    try:
        find_keys(batch, image_key, target_key)
    except _NotHereError as error:
        raise ValueError(f"{error}{nested_hints(batch)}") from None


def _search(batch: Any, path: Path, image_key: Keys | None, target_key: Keys | None, found: list[Location]) -> None:
    try:
        keys = find_keys(batch, image_key, target_key)
    except _NotHereError:
        for key, value in entries_of(batch).items():
            if is_container(value):
                _search(value, (*path, key), image_key, target_key, found)
    else:
        found.append(
            Location(
                (*path, keys.images),
                (*path, keys.targets),
                tuple((*path, key) for key in keys.other_images),
                tuple((*path, key) for key in keys.other_targets),
            )
        )


def _check_entries(batch: Any, where: Location, target_key: Keys | None) -> None:
    """Refuse named entries that do not fit, and images that are not channels-first."""
    images = read(batch, where.images)
    if not isinstance(images, Tensor) or not images.ndim:
        return
    for path in (where.images, *where.other_images):
        view = read(batch, path)
        if not isinstance(view, Tensor) or view.ndim != 4 or len(view) != len(images):
            if path == where.images:
                return
            raise ValueError(
                f"image_key: {joined(path)!r} must be {len(images)} images (B, C, H, W) like {joined(where.images)!r} "
                f"({describe_value(images)}), got {describe_value(view)}"
            )
        check_channels_first(view)
    if target_key is None:
        return
    shared = {where.images, *where.other_images} & {where.targets, *where.other_targets}
    if shared:
        raise ValueError(
            f"image_key and target_key both name {joined(shared.pop())!r}: images and targets are two entries"
        )
    for path in (where.targets, *where.other_targets):
        if not isinstance(read(batch, path), Tensor):
            raise TypeError(
                f"target_key={joined(path)!r} must name a tensor of targets, got {describe_value(read(batch, path))}"
            )
        value = read(batch, path)
        # Whether (B,) floats are the targets of one logit or of a regression, the model's output tells.
        advice = None if value.is_floating_point() and value.ndim == 1 else target_advice(value, len(images))
        if advice is not None:
            raise ValueError(
                f"target_key={joined(path)!r} must be (B,) integer classes or (B, classes) float probabilities, got "
                f"{describe_value(read(batch, path))}: {advice}"
            )


def _is_path(key: Key | None) -> bool:
    return isinstance(key, str) and "." in key


def _resolved(batch: Any, argument: str, key: Key) -> Path:
    """Follow a dotted path through a batch; its parts are names, or positions in lists and tuples."""
    path: list[Key] = []
    for part in str(key).split("."):
        entries = entries_of(batch) if is_container(batch) else {}
        chosen: Key = part if part in entries or not part.lstrip("-").isdigit() else int(part)
        chosen = chosen + len(entries) if isinstance(chosen, int) and chosen < 0 else chosen
        if chosen not in entries:
            raise ValueError(f"{argument}={key!r}: {part!r} is not one of {list(entries)}, so the path leads nowhere")
        path.append(chosen)
        batch = entries[chosen]
    return tuple(path)
