"""Find images and targets in what a DataLoader yields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_puzzlemix.callbacks.candidates import (
    image_candidates,
    image_hints,
    nested_hints,
    target_candidates,
    target_hints,
)
from lightning_puzzlemix.callbacks.containers import (
    Key,
    Keys,
    Path,
    as_keys,
    describe,
    dotted,
    entries_of,
    is_container,
    names_of,
    read,
)
from lightning_puzzlemix.targets import target_advice
from lightning_puzzlemix.validation import check_channels_first, describe_value


@dataclass(frozen=True)
class SamplePaths:
    """Where a batch holds one set of images and their targets.

    Attributes:
        images: Paths to the images, or to several views of them and maps on their pixels; the first decides how all are mixed.
        targets: Paths to the targets, or to several forms of them; saliency is computed for the first.
    """

    images: tuple[Path, ...]
    targets: tuple[Path, ...]


class _NotFoundError(ValueError):
    """A container itself holds no images or no targets."""


def find_samples(batch: Any, image_key: Keys | None = None, target_key: Keys | None = None) -> list[SamplePaths]:
    """Find the images and targets in a batch, however deeply it is nested.

    Images are (B, C, H, W) tensors; targets are (B,) integers or (B, classes) floats. If several entries of a container could
    be either, the one with a usual name is chosen, unless another may be a second view or form. A container that holds
    both is not searched further. In any other its containers are searched, such as the batches of CombinedLoader; those
    without images or targets are skipped.

    Args:
        batch: What a DataLoader yields.
        image_key: The images, if known: a name, a position, or a path such as ``"labeled.0"``; a list for several views of
            them, and maps on their pixels.
        target_key: The targets, if known; a path too if the other is one; a list for several forms.

    Raises:
        TypeError: If the batch is not a container, or a key names no tensor.
        ValueError: If nothing is found, an entry is ambiguous, or a named one does not fit.
    """
    image_keys, target_keys = as_keys(image_key), as_keys(target_key)
    if any(isinstance(key, str) and "." in key for key in (*image_keys, *target_keys)):
        if not image_keys or not target_keys:
            raise ValueError(
                f"image_key={image_key!r} and target_key={target_key!r} must both be given if one of them is a path"
            )
        images = tuple(_follow(batch, "image_key", key) for key in image_keys)
        found = [SamplePaths(images, tuple(_follow(batch, "target_key", key) for key in target_keys))]
    else:
        found = _search(batch, (), image_keys, target_keys)
    for each in found:
        _check(batch, each, named_targets=bool(target_keys))
    return found


def _search(batch: Any, path: Path, image_keys: tuple[Key, ...], target_keys: tuple[Key, ...]) -> list[SamplePaths]:
    """Return what a container holds itself, else what the containers in it hold."""
    try:
        images, targets = _find(batch, image_keys, target_keys)
    except _NotFoundError as error:
        inner = [(key, value) for key, value in entries_of(batch).items() if is_container(value)]
        found = [each for key, value in inner for each in _search(value, (*path, key), image_keys, target_keys)]
        if not path and not found:
            raise ValueError(f"{error}{nested_hints(batch)}") from None
        return found
    return [SamplePaths(tuple((*path, key) for key in images), tuple((*path, key) for key in targets))]


def _find(batch: Any, image_keys: tuple[Key, ...], target_keys: tuple[Key, ...]) -> tuple[list[Key], list[Key]]:
    """Return the keys of images and targets in one container."""
    entries = entries_of(batch)
    images = _named(batch, "image_key", image_keys) or image_candidates(entries, names_of(batch))
    if not images:
        raise _NotFoundError(
            f"found no images (a (B, C, H, W) tensor) in the batch ({describe(batch)}){image_hints(entries)}: pass image_key="
        )
    for key in images:
        if not isinstance(entries[key], Tensor):
            raise TypeError(f"image_key={key!r} must name a tensor of images, got {type(entries[key]).__name__}")
    targets = _named(batch, "target_key", target_keys) or _find_targets(batch, images)
    if not image_keys and len(images) > 1:
        raise _ambiguous("images", images, batch, "image_key", "views of the same images")
    if not target_keys and len(targets) > 1:
        raise _ambiguous("targets", targets, batch, "target_key", "forms of the same label")
    if not image_keys:
        _refuse_nested_views(batch, images[0])
    return images, targets


def _named(batch: Any, argument: str, keys: tuple[Key, ...]) -> list[Key]:
    """Return the entries that an argument names, by the keys of the batch."""
    entries, found = entries_of(batch), []
    for key in keys:
        found.append(key + len(entries) if isinstance(key, int) and key < 0 else key)
        if found[-1] not in entries:
            raise _NotFoundError(f"{argument}={key!r} is not in the batch ({describe(batch)}): name one of its entries")
    return found


def _find_targets(batch: Any, images: list[Key]) -> list[Key]:
    entries = entries_of(batch)
    others, count = {key: value for key, value in entries.items() if key not in images}, len(entries[images[0]])
    found = target_candidates(others, names_of(batch), count)
    if not found:
        raise _NotFoundError(
            f"found no targets ((B,) integer classes or (B, classes) float probabilities) in the batch ({describe(batch)})"
            f"{target_hints(others, count)}: pass target_key=, or train without this callback if there are no targets to mix"
        )
    return found


def _ambiguous(what: str, keys: list[Any], batch: Any, argument: str, alike: str) -> ValueError:
    return ValueError(
        f"found several {what} {keys} in the batch ({describe(batch)}): pass {argument}= to name the one to mix, or "
        f"{argument}={keys} if they are {alike}, to mix all alike"
    )


def _refuse_nested_views(batch: Any, images: Key) -> None:
    """Refuse further images in containers beside ours, which would stay unmixed; those with targets of their own may stay."""
    for key, value in entries_of(batch).items():
        path = next(_images_without_targets(value, (key,)), None) if is_container(value) else None
        if path is not None:
            named = dotted(path)
            raise ValueError(
                f"found several images [{images!r}, {named!r}] in the batch ({describe(batch)}): pass image_key= and "
                f"target_key= to name those to mix, or image_key=[{images!r}, {named!r}] to mix both alike"
            )


def _images_without_targets(batch: Any, path: Path) -> Iterator[Path]:
    entries = entries_of(batch)
    images = image_candidates(entries, {})
    if not images:
        for key, value in entries.items():
            if is_container(value):
                yield from _images_without_targets(value, (*path, key))
        return
    try:
        _find_targets(batch, images)
    except _NotFoundError:
        yield (*path, images[0])


def _check(batch: Any, where: SamplePaths, named_targets: bool) -> None:
    """Refuse views that do not fit the first, images that are not channels-first, and named entries that are not targets."""
    images = read(batch, where.images[0])
    if not isinstance(images, Tensor) or images.ndim != 4:
        # The mixer refuses these.
        return
    for path in where.images:
        view = read(batch, path)
        if not isinstance(view, Tensor) or view.ndim < 3 or len(view) != len(images):
            raise ValueError(
                f"image_key: {dotted(path)!r} must be {len(images)} images (B, C, H, W) like {dotted(where.images[0])!r} "
                f"({describe_value(images)}), or {len(images)} maps (B, ..., H, W), got {describe_value(view)}"
            )
        check_channels_first(view)
    for path in where.targets if named_targets else ():
        targets, name = read(batch, path), dotted(path)
        if path in where.images:
            raise ValueError(f"image_key and target_key both name {name!r}: images and targets are two entries")
        if not isinstance(targets, Tensor):
            raise TypeError(f"target_key={name!r} must name a tensor of targets, got {describe_value(targets)}")
        # Only the model's output tells whether (B,) floats are targets of one logit or of a regression.
        undecided = targets.is_floating_point() and targets.ndim == 1
        advice = None if undecided else target_advice(targets, len(images))
        if advice is not None:
            raise ValueError(
                f"target_key={name!r} must be (B,) integer classes or (B, classes) float probabilities, got "
                f"{describe_value(targets)}: {advice}"
            )


def _follow(batch: Any, argument: str, key: Key) -> Path:
    """Return the path that a dotted key names; its parts are names, or positions in lists and tuples."""
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
