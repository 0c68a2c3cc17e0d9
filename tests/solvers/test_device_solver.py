"""The CUDA kernels against the host solver: their own source, run on the CPU with the threads in random order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import emulated
import numpy as np
import pytest
import torch
from drawn import FAMILIES, draw_energy, draw_shares
from emulated import EmulatedKernels
from recorded import load_photos
from torch import Tensor

from lightning_puzzlemix import PuzzleMixConfig
from lightning_puzzlemix.solvers import cuda_runtime, device, host
from lightning_puzzlemix.solvers.maxflow import minimize_labels
from lightning_puzzlemix.solvers.problem import Energy

CPU = torch.device("cpu")
# Grids of moving blocks: n blocks a side, cut into rows x cols.
GRIDS = [
    (2, 2, 2),
    (3, 3, 3),
    (5, 5, 5),
    (8, 8, 8),
    (16, 16, 16),
    (2, 4, 8),
    (4, 8, 4),
    (3, 6, 3),
    (4, 28, 28),
    (16, 32, 32),
]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> EmulatedKernels:
    return emulated.build(tmp_path_factory.mktemp("emulator"))


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Where the kernels run: on the CPU, thread by thread in a random order, or on a device."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    if request.param == "emulated":
        request.getfixturevalue("kernels").install(monkeypatch)
    device._moves.cache_clear()
    yield CPU if request.param == "emulated" else torch.device("cuda")
    device._moves.cache_clear()


def samples(target: torch.device, emulated_count: int) -> int:
    """The size of a batch: a device solves many as fast as few."""
    return emulated_count if target.type == "cpu" else 256


def on(target: torch.device, arrays: Iterable[np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)).to(target) for array in arrays]


def host_labels(energy: Energy[np.ndarray], priors: np.ndarray) -> np.ndarray:
    difference = np.subtract(energy.cost_first, energy.cost_second, dtype=np.float64)
    labels = np.empty(difference.shape, np.int32)
    priors = np.ascontiguousarray(np.broadcast_to(priors, (len(labels), priors.shape[1])))
    minimize_labels(difference, energy.weight_rows, energy.weight_cols, priors, labels, 0, len(labels))
    return labels


def device_labels(energy: Energy[np.ndarray], priors: np.ndarray, target: torch.device = CPU) -> np.ndarray:
    return device.minimize_labels(Energy(*on(target, vars(energy).values())), *on(target, [priors])).cpu().numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("n", "num_labels"), [(2, 3), (7, 2), (9, 4), (16, 3), (22, 6)])
def test_drawn_masks_are_the_hosts(family: str, n: int, num_labels: int, target: torch.device) -> None:
    energy, priors = draw_energy(family, samples(target, 40 if n < 16 else 6), n, num_labels, seed=n)
    labels = device_labels(energy, priors, target)
    np.testing.assert_array_equal(labels, host_labels(energy, priors))


@pytest.mark.parametrize("lam", [0.3, [0.0, 0.2, 0.5, 1.0]])
def test_one_block_and_one_lam_for_each_sample(lam: float | list[float], target: torch.device) -> None:
    for n in (1, 4):
        energy, _ = draw_energy("random", 4, n, 3, seed=n)
        shares = lam if isinstance(lam, float) else torch.tensor(lam)
        expected = host.solve_masks(energy, lam if isinstance(lam, float) else np.array(lam), PuzzleMixConfig())
        found = device.solve_masks(Energy(*on(target, vars(energy).values())), shares, PuzzleMixConfig())
        np.testing.assert_array_equal(found.cpu().numpy(), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("term", ["cost_first", "cost_second", "weight_rows", "weight_cols"])
def test_a_sample_without_meaning_ends_and_spoils_no_other(value: float, term: str, target: torch.device) -> None:
    energy, priors = draw_energy("random", 3, 5, 3, seed=1)
    expected = host_labels(energy, priors)
    getattr(energy, term)[1].flat[7] = value
    labels = device_labels(energy, priors, target)
    np.testing.assert_array_equal(labels[[0, 2]], expected[[0, 2]])
    assert ((labels[1] >= 0) & (labels[1] < 3)).all()


@pytest.mark.parametrize("family", ["random", "sparse", "onehot", "tied", "zero"])
@pytest.mark.parametrize(("n", "rows", "cols"), GRIDS)
def test_plans_are_the_hosts(family: str, n: int, rows: int, cols: int, target: torch.device) -> None:
    rng = np.random.default_rng(rows * cols)
    batch = samples(target, 2 if rows * cols > 300 else 8)
    for cost in (1e-3, 0.05, 0.8, 3.0):
        config = PuzzleMixConfig(num_labels=3, transport_cost=cost)
        shares = [draw_shares(family, (batch, rows, cols), rng) for _ in range(2)]
        labels = rng.integers(0, 3, (batch, n, n)).astype(np.int32)
        expected = np.stack(host.plan_moves(shares[0], shares[1], labels, config))
        found = device.plan_moves(*on(target, [*shares, labels]), config)
        np.testing.assert_array_equal(found.cpu().numpy(), expected)


def recorded_problems() -> list[tuple[Energy[np.ndarray], float, int]]:
    """Energies of the recorded photographs, as the package makes them."""
    from lightning_puzzlemix.core.energy import block_saliency, mask_energy, pixel_cells
    from lightning_puzzlemix.core.grid import Grid

    problems = []
    for recorded, case in load_photos():
        images, n = recorded.images, case["num_blocks"]
        config = PuzzleMixConfig(mean=recorded.mean, std=recorded.std)
        height, width = images.shape[2:]
        cells = Grid.of(height, width, n, config.neighborhood_size)
        partner = torch.arange(len(images)).roll(1)
        energy = mask_energy(
            block_saliency(recorded.saliency, Grid.of(height, width, n)), pixel_cells(images, cells, config), partner, cells,
            beta=config.beta, gamma=config.gamma,
        )  # fmt: skip
        problems.append((Energy(*(each.contiguous().numpy() for each in vars(energy).values())), case["lam"], n))
    return problems


def test_masks_of_photographs_are_the_hosts(target: torch.device) -> None:
    compared = 0
    for energy, lam, _ in recorded_problems():
        for num_labels in (2, 3, 4):
            config = PuzzleMixConfig(num_labels=num_labels)
            expected = host.solve_masks(energy, lam, config)
            found = device.solve_masks(Energy(*on(target, vars(energy).values())), lam, config)
            np.testing.assert_array_equal(found.cpu().numpy(), expected)
            compared += len(expected)
    assert compared > 200


SENT = "if (!__syncthreads_or(nonzero(sent))) break;"
# The same vote without waiting: a thread may see the votes of those alone that ran before it.
UNSYNCHRONIZED = """
    static int moved, voted;
    if (voted++ == 0) moved = 0;
    moved |= nonzero(sent);
    if (voted == (int)blockDim.x) voted = 0;
    if (!moved) break;
"""
NEXT_MOVE = "pointer[source] = move + 1;\n        }\n"
BID = "atomicMin(&holder[target], bid(price, source));"
# A line of a kernel, and what is put in its place.
FAULTS = {
    "no barrier between the boxes": ("mask", SENT, UNSYNCHRONIZED),
    "one set of boxes": ("mask", "boxes ^= 1;", ""),
    "boxes are not emptied": ("mask", "if (nonzero(came)) sh.box[boxes][k][threadIdx.x] = 0;", ""),
    "no barrier before the search": (
        "mask",
        "sh.excess[warp] = high;\n    __syncthreads();",
        "sh.excess[warp] = high;",
    ),
    "no barrier between the rounds": ("plan", f"{NEXT_MOVE}        __syncthreads();", NEXT_MOVE),
    "the first bid wins": ("plan", BID, "if (holder[target] == NOBODY) holder[target] = bid(price, source);"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparisons above can fail: each fault changes a result, or leaves the threads waiting for each other."""
    file, right, wrong = FAULTS[fault]
    source = (emulated.KERNELS / f"{file}.cu").read_text()
    assert source.count(right) == 1
    emulated.build(tmp_path, **{file: source.replace(right, wrong)}).install(monkeypatch)
    device._moves.cache_clear()
    try:
        agree = _masks_agree() if file == "mask" else _plans_agree()
    except RuntimeError:
        # The threads wait for each other forever, which is said.
        return
    assert not agree


def _masks_agree() -> bool:
    for seed in range(8):
        for family in ("strong", "heavy", "corridor", "maze"):
            energy, priors = draw_energy(family, 30, 12, 3, seed=seed)
            if not np.array_equal(device_labels(energy, priors), host_labels(energy, priors)):
                return False
    return True


def _plans_agree() -> bool:
    rng, config = np.random.default_rng(0), PuzzleMixConfig(transport_cost=0.05)
    shares = [draw_shares("tied", (40, 8, 8), rng) for _ in range(2)]
    labels = rng.integers(0, 3, (40, 8, 8)).astype(np.int32)
    found = device.plan_moves(*on(CPU, [*shares, labels]), config).numpy()
    return np.array_equal(found, np.stack(host.plan_moves(*shares, labels, config)))


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
@pytest.mark.parametrize("file", cuda_runtime.SOURCES.values())
def test_nvrtc_takes_the_source(file: str, capability: tuple[int, int]) -> None:
    pytest.importorskip("cuda.core")
    try:
        code = cuda_runtime.compile_kernel(file, capability).code
    except OSError as error:
        pytest.skip(f"NVRTC is not installed: {error}")
    assert len(code) > 1000


def test_a_device_newer_than_nvrtc_gets_code_that_its_driver_finishes() -> None:
    known = [75, 80, 90, 100, 120]
    assert cuda_runtime.architecture((9, 0), known) == ("sm_90", "cubin")
    assert cuda_runtime.architecture((10, 3), known) == ("compute_100", "ptx")
    assert cuda_runtime.architecture((13, 0), known) == ("compute_120", "ptx")
    with pytest.raises(RuntimeError, match=r"compute capability 7\.0"):
        cuda_runtime.architecture((7, 0), known)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": CPU}, "images are on cpu"),
        ({"solver": "gco"}, "solver='gco' runs on the host"),
        ({"blocks": 23}, "23 blocks per side are more than 22"),
        ({"num_labels": 17}, "num_labels=17 is more than 16"),
        ({"moving": (64, 64)}, "64 x 64 moving blocks are more than 4000"),
    ],
)
def test_what_a_device_cannot_solve_has_a_reason(
    changes: dict[str, object], reason: str, kernels: EmulatedKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels.install(monkeypatch)
    settings = {key: changes[key] for key in ("solver", "num_labels") if key in changes}
    config = PuzzleMixConfig(**settings)  # type: ignore[arg-type]
    where = changes.get("device", torch.device("cuda:0"))
    assert reason in str(device.unsupported(where, changes.get("blocks", 16), changes.get("moving", (16, 16)), config))  # type: ignore[arg-type]


def test_what_it_can_solve_has_none(kernels: EmulatedKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.install(monkeypatch)
    assert device.unsupported(torch.device("cuda:0"), 22, (62, 64), PuzzleMixConfig(num_labels=16)) is None


def test_a_prior_made_on_the_device_is_the_hosts_but_for_rounding() -> None:
    lam = torch.tensor([0.0, 1e-3, 0.4, 1.0])
    for num_labels in (2, 3, 6):
        config = PuzzleMixConfig(num_labels=num_labels)
        expected = device.device_prior(lam, config, 4, CPU)
        # A tensor that says it lies elsewhere, as one on the device would.
        elsewhere = lam.as_subclass(_Elsewhere)
        found = device.device_prior(elsewhere, config, 4, CPU).as_subclass(Tensor)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


class _Elsewhere(Tensor):
    """A tensor of the CPU whose device is another one."""

    device = torch.device("meta")  # type: ignore[assignment]


@pytest.mark.gpu
def test_a_graph_of_both_kernels_replays_on_other_inputs_and_is_the_same_each_time() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    target, config = torch.device("cuda"), PuzzleMixConfig()
    pool = []
    for seed in range(8):
        energy, priors = draw_energy("strong", 128, 16, 3, seed=seed)
        shares = [draw_shares("random", (128, 16, 16), np.random.default_rng([seed, side])) for side in (0, 1)]
        pool.append(on(target, [*vars(energy).values(), priors, *shares]))

    def solve(inputs: list[Tensor]) -> list[Tensor]:
        labels = device.minimize_labels(Energy(*inputs[:4]), inputs[4])
        return [labels, device.plan_moves(inputs[5], inputs[6], labels, config)]

    static = [each.clone() for each in pool[0]]
    # The moves are put on the device before the capture.
    solve(static)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        solve(static)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = solve(static)
    for inputs in pool:
        for place, value in zip(
            [*static, *captured], [*inputs, *[torch.full_like(each, -9) for each in captured]], strict=True
        ):
            place.copy_(value)
        graph.replay()
        expected = solve(inputs)
        for repetition in range(25):
            again = solve(inputs)
            assert all(map(torch.equal, again, expected)), repetition
        assert all(map(torch.equal, captured, expected))
