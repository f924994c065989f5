"""The training loop: against a plain loop, against itself after a kill, and with losses that go wrong."""

from __future__ import annotations

import errno
import io
import itertools
import math
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import preloaded
from microbudget.errors import DiskFull, Diverged, OutOfTime
from microbudget.progress import Progress
from microbudget.training import loop
from microbudget.training.modes import fresh_norms, frozen_norms, zeros_stay
from microbudget.training.objective import Objective, Trained
from microbudget.training.order import Order, schedule
from microbudget.training.settings import Execution, Settings
from microbudget.training.train import train

SETTINGS = Settings(epochs=4, batch_size=8, learning_rate=0.02, patience=None)


def test_no_batch_has_a_single_example_unless_it_is_asked_for() -> None:
    """Batch norm of one example has no variance."""
    for examples in range(2, 40):
        for size in range(2, 12):
            batches = Order(examples, size, seed=0).rows(0)
            assert min(map(len, batches)) >= 2
            assert sorted(np.concatenate(batches)) == list(range(examples))
            assert max(map(len, batches)) <= max(size, 3)
    assert [len(rows) for rows in Order(3, 1, seed=0).rows(0)] == [1, 1, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_the_same_result_for_the_same_seed(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        one = network()
        train(one, objective(), SETTINGS, Execution(seed=3))
        found.append({name: tensor.clone() for name, tensor in one.state_dict().items()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def data(count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    X = torch.from_numpy(np.random.default_rng(1).normal(size=(count, 6)).astype("f"))
    return X, X[:, :3].argmax(1)


def objective(**changes) -> Objective:
    X, y = data()
    held_out, answers = data(80)[0][50:], data(80)[1][50:]

    def validate(net: nn.Module) -> dict[str, float]:
        logits = net(held_out)
        loss = nn.functional.cross_entropy(logits, answers)
        return {"loss": float(loss), "accuracy": float((logits.argmax(1) == answers).float().mean())}

    plain = Objective(
        examples=50,
        batch=lambda rows, epoch: {"X": X[rows], "y": y[rows]},
        loss=lambda net, batch: nn.functional.cross_entropy(net(batch["X"]), batch["y"]),
        validate=validate,
    )
    return replace(plain, **changes)


def weights(net: nn.Module) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values())


def test_it_is_a_plain_loop() -> None:
    """The same steps written out: torch's AdamW, the formula of the cosine, clipping, no decay on vectors."""
    ours, theirs = network().double(), network().double()
    X, y = data()
    X = X.double()
    given = objective(batch=lambda rows, epoch: {"X": X[rows], "y": y[rows]}, validate=None)
    done = train(ours, given, SETTINGS, Execution(seed=3))

    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0}], weight_decay=0.01)
    torch.manual_seed(3)
    theirs.train()
    step, losses = 0, []
    for epoch in range(4):
        order = np.random.default_rng([3, epoch]).permutation(50)
        for rows in np.array_split(order, 7):
            warm, total = round(28 * 0.05), 28
            factor = (step + 1) / (warm + 1) if step < warm else (1 + math.cos(math.pi * (step - warm) / 27)) / 2
            for group in optimizer.param_groups:
                group["lr"] = 0.02 * factor
            loss = nn.functional.cross_entropy(theirs(X[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item() * len(rows))
            step += 1
        assert total == 28
    for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)
    assert done.epochs[-1]["train_loss"] == pytest.approx(sum(losses[-7:]) / 50)
    assert not ours.training


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    rates = [schedule(step, 100, 0.1) for step in range(101)]
    assert rates[:10] == [pytest.approx((step + 1) / 11) for step in range(10)]
    assert rates[10] == 1.0
    assert all(before > after for before, after in itertools.pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert schedule(0, 4, 0) == 1.0


def test_every_example_is_seen_once_in_an_epoch_and_no_batch_has_one_alone() -> None:
    seen: dict[int, list[int]] = {}
    X, y = data()

    def batch(rows, epoch):
        assert len(rows) > 1
        seen.setdefault(epoch, []).extend(rows.tolist())
        return {"X": X[rows], "y": y[rows]}

    train(network(), objective(batch=batch), replace(SETTINGS, batch_size=49))
    assert all(sorted(rows) == list(range(50)) for rows in seen.values())
    assert len({tuple(rows) for rows in seen.values()}) == 4


def test_the_best_epoch_is_kept_and_patience_ends_it() -> None:
    losses = iter([1.0, 0.9, 0.5, 0.7, 0.6, 0.4])
    after: list[bytes] = []

    def validate(net: nn.Module) -> dict[str, float]:
        assert not net.training
        after.append(weights(net))
        return {"loss": next(losses)}

    net = network()
    done = train(net, objective(validate=validate), replace(SETTINGS, epochs=50, patience=2))
    assert [row["validation_loss"] for row in done.epochs] == [0.9, 0.5, 0.7, 0.6]
    assert (done.kept, done.stopped) == (2, "no better validation loss for 2 epochs")
    assert weights(net) == after[2] != after[4]


def test_training_that_does_not_help_leaves_the_network_as_it_was() -> None:
    losses = iter([0.5, 0.6, 0.7])
    net, before = network(), weights(network())
    done = train(net, objective(validate=lambda net: {"loss": next(losses)}), replace(SETTINGS, patience=2))
    assert (done.before, done.kept) == ({"loss": 0.5}, 0)
    assert weights(net) == before


def test_without_validation_all_epochs_run_and_the_last_weights_stay() -> None:
    net = network()
    done = train(net, objective(validate=None), replace(SETTINGS, patience=1))
    assert (done.kept, done.stopped, len(done.epochs)) == (4, "all epochs", 4)
    assert set(done.epochs[0]) == {"epoch", "train_loss"}


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5))
    torch.manual_seed(5)
    train(net, objective(), SETTINGS)
    torch.testing.assert_close(torch.rand(3), expected)


def test_groups_have_their_own_rates_and_what_is_in_none_stays() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    train(
        net,
        objective(),
        replace(SETTINGS, epochs=1, weight_decay=0),
        groups=[([net[0].weight], 0.1), ([net[4].weight], 1)],
    )
    moved = {name: float((value - before[name]).abs().max()) for name, value in net.state_dict().items() if value.ndim}
    assert moved["4.bias"] == moved["0.bias"] == 0
    assert 0 < moved["0.weight"] < 0.3 * moved["4.weight"]


def test_parts_of_a_batch_make_the_same_step() -> None:
    whole, parted = (nn.Linear(6, 3).double() for _ in range(2))
    parted.load_state_dict(whole.state_dict())
    X, y = data()
    given = objective(batch=lambda rows, epoch: {"X": X[rows].double(), "y": y[rows]}, validate=None)
    one, other = (train(net, given, replace(SETTINGS, parts=n)) for net, n in ((whole, 1), (parted, 3)))
    torch.testing.assert_close(whole.weight, parted.weight)
    assert one.epochs[-1]["train_loss"] == pytest.approx(other.epochs[-1]["train_loss"])


def test_frozen_norms_keep_their_statistics() -> None:
    net = network()
    train(net, objective(), SETTINGS, mode=frozen_norms)
    assert float(net[1].running_mean.abs().sum()) == 0
    free = network()
    train(free, objective(), SETTINGS)
    assert float(free[1].running_mean.abs().sum()) > 0


def test_fresh_norms_hold_the_means_of_the_epochs_batches() -> None:
    """Without any change of the weights: exactly the mean of the batches' means, whatever was there before."""
    net = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    net[0].running_mean += 100
    X = data()[0]
    train(net, objective(validate=None), replace(SETTINGS, batch_size=49), mode=fresh_norms)
    batches = np.array_split(np.random.default_rng([0, 3]).permutation(50), 2)
    torch.testing.assert_close(net[0].running_mean, torch.stack([X[rows].mean(0) for rows in batches]).mean(0))


def test_pruned_zeros_stay() -> None:
    net = network()
    with torch.no_grad():
        net[0].weight[::2] = 0
    train(net, objective(), SETTINGS, after_step=zeros_stay([net[0].weight]))
    assert net[0].weight[::2].abs().sum().item() == 0
    assert net[0].weight[1::2].abs().min().item() > 0


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient", "validation"])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights(wrong: float, where: str) -> None:
    good: list[bytes] = []
    plain, count = objective(), [0]

    def loss(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        count[0] += 1
        value = plain.loss(net, batch)
        if where == "gradient" and count[0] == 15:
            value.register_hook(lambda gradient: gradient * wrong)
        return value * wrong if where == "loss" and count[0] == 15 else value

    def validate(net: nn.Module) -> dict[str, float]:
        good.append(weights(net))
        return {"loss": wrong if where == "validation" and count[0] > 15 else 1.0 / len(good)}

    net, log = network(), io.StringIO()
    done = train(net, replace(plain, loss=loss, validate=validate), SETTINGS, Execution(progress=Progress(log)))
    assert weights(net) == good[2]
    assert done.kept == 2
    assert "epoch 3" in done.stopped
    assert "try a lower learning rate (0.002 instead of 0.02)" in log.getvalue()


def test_nan_before_an_epoch_is_whole_is_an_error(tmp_path: Path) -> None:
    wrong = objective(loss=lambda net, batch: net(batch["X"]).sum() * math.nan)
    with pytest.raises(Diverged, match=r"the loss was nan in epoch 1, step 1.*lower learning rate"):
        train(network(), wrong, SETTINGS, Execution(checkpoint=tmp_path / "a.pt"))


def test_without_time_it_ends_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """The same weights as of a training that was never stopped: the clock decides whether, not what."""
    whole, late = network(), network()
    train(whole, objective(), SETTINGS, Execution(seed=3))
    with pytest.raises(OutOfTime):
        train(late, objective(), SETTINGS, Execution(seed=3, checkpoint=tmp_path / "a.pt", deadline=0.0))
    again, log = network(), io.StringIO()
    train(again, objective(), SETTINGS, Execution(seed=3, checkpoint=tmp_path / "a.pt", progress=Progress(log)))
    assert "goes on at step 1 of 28" in log.getvalue()
    assert weights(again) == weights(whole)


def averaged_by_hand(horizon: float, given: list[bytes]) -> np.ndarray:
    """Of float32 weights after each step: a_0 = w_0, a_n = d a + (1 - d) w with d = min(1 - 1/h, (1 + n)/(10 + n))."""
    average: np.ndarray | None = None
    for step, raw in enumerate(given):
        latest = np.frombuffer(raw, np.float32).astype(np.float64)
        decay = min(1 - 1 / horizon, (1 + step) / (10 + step))
        average = latest if average is None else decay * average + (1 - decay) * latest
    assert average is not None
    return average


def test_the_average_of_the_weights_is_what_is_kept() -> None:
    plain, steps = nn.Sequential(nn.Linear(6, 3)), []
    settings = replace(SETTINGS, average=0.25)
    train(plain, objective(validate=None), settings, after_step=lambda: steps.append(weights(plain)))
    expected = averaged_by_hand(0.25 * 28, steps)
    np.testing.assert_allclose(np.frombuffer(weights(plain), np.float32), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(np.frombuffer(steps[-1], np.float32), expected, atol=1e-4)


def test_the_average_is_what_validation_judges() -> None:
    judged: list[nn.Module] = []
    net = network()
    given = objective(validate=lambda each: judged.append(each) or {"loss": 1.0 / len(judged)})  # type: ignore[func-returns-value]
    train(net, given, replace(SETTINGS, average=0.25))
    assert judged[0] is net
    assert all(each is not net and not each.training for each in judged[1:])


@pytest.mark.parametrize(("losses", "kept"), [([5, 1, 2, 3, 4], 4), ([3.5, 1, 2, 3, 4], 0)])
def test_the_last_epoch_is_kept_where_that_is_asked_for(losses: list[float], kept: int) -> None:
    """The first one is the best on validation; the network as it was given is kept where it is better than the last."""
    judged: list[bytes] = []
    net = network()
    given = objective(validate=lambda each: judged.append(weights(each)) or {"loss": losses[len(judged) - 1]})  # type: ignore[func-returns-value]
    done = train(net, given, replace(SETTINGS, last=True))
    assert done.kept == kept
    assert weights(net) == judged[kept]
    assert len(set(judged)) == 5


def test_a_cut_training_keeps_its_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is up in the third epoch; a training that must be whole would be given up."""
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    plain = objective()

    def loss(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        now[0] += 1.0
        return plain.loss(net, batch)

    given, settings = replace(plain, loss=loss), replace(SETTINGS, average=0.25, cut=True)
    done = train(network(), given, settings, Execution(deadline=16.0))
    assert done.stopped == "the time was up after 2 of 4 epochs"
    assert done.kept in (1, 2)
    now[0] = 0.0
    with pytest.raises(OutOfTime):
        train(network(), given, settings, Execution(deadline=5.0))


def killed_at(step: int, folder: Path, average: float = 0.0) -> int | None:
    """Train in a process of its own, which kills itself in that step (0: never). Returns its exit status."""
    code = (
        "import os, signal, sys; from dataclasses import replace; from pathlib import Path\n"
        "from microbudget.training import loop; from microbudget.training.modes import fresh_norms\n"
        "from microbudget.training.settings import Execution; from microbudget.training.train import train\n"
        "import test_train as t\n"
        f"loop.CHECKPOINT_EVERY_S = 0; plain = t.objective(); folder = Path({str(folder)!r}); count = [0]\n"
        "def loss(net, batch):\n"
        "    count[0] += 1\n"
        f"    if count[0] == {step}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return plain.loss(net, batch)\n"
        "net = t.network()\n"
        "run = Execution(threads=1, checkpoint=folder / 'a.pt')\n"
        f"settings = replace(t.SETTINGS, average={average})\n"
        "done = train(net, replace(plain, loss=loss), settings, run, mode=fresh_norms)\n"
        "(folder / 'weights').write_bytes(t.weights(net)); (folder / 'history').write_text(repr(done))\n"
    )
    return preloaded.status(preloaded.start(code))


@pytest.mark.parametrize("average", [0.0, 0.25])
def test_killed_twice_it_ends_with_the_same_bytes(average: float, tmp_path: Path) -> None:
    """In the first epoch and in a later one; what is before the kill is not done again."""
    net, settings = network(), replace(SETTINGS, average=average)
    expected = train(net, objective(), settings, Execution(threads=1, checkpoint=tmp_path / "own.pt"), mode=fresh_norms)
    for step in (5, 10):
        assert killed_at(step, tmp_path, average) == -signal.SIGKILL
        assert (tmp_path / "a.pt").is_file()
    assert killed_at(0, tmp_path, average) == 0
    assert (tmp_path / "weights").read_bytes() == weights(net)
    assert (tmp_path / "history").read_text() == repr(expected)


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first, again = network(), network()
    done = train(first, objective(), SETTINGS, Execution(checkpoint=tmp_path / "a.pt"))

    def never(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        raise AssertionError("it was trained again")

    assert train(again, objective(loss=never), SETTINGS, Execution(checkpoint=tmp_path / "a.pt")) == done
    assert weights(again) == weights(first)


def test_a_damaged_checkpoint_is_reported_and_left_aside(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"half a file")
    log, net, other = io.StringIO(), network(), network()
    train(net, objective(), SETTINGS, Execution(checkpoint=tmp_path / "a.pt", progress=Progress(log)))
    assert "cannot be read" in log.getvalue()
    train(other, objective(), SETTINGS)
    assert weights(net) == weights(other)


def test_a_checkpoint_of_another_version_is_left_aside(tmp_path: Path) -> None:
    """It lacks what this version writes."""
    path, log, net, other = tmp_path / "a.pt", io.StringIO(), network(), network()
    with pytest.raises(OutOfTime):
        train(network(), objective(), SETTINGS, Execution(checkpoint=path, deadline=0.0))
    torch.save({name: value for name, value in torch.load(path).items() if name != "average"}, path)
    train(net, objective(), SETTINGS, Execution(checkpoint=path, progress=Progress(log)))
    assert "of another version of microbudget and has no average" in log.getvalue()
    train(other, objective(), SETTINGS)
    assert weights(net) == weights(other)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0)
    net, other = network(), network()
    written = [0]
    save = torch.save

    def full(state: object, stream: io.BufferedWriter) -> None:
        written[0] += 1
        if written[0] == 10:
            with Path("/dev/full").open("wb") as device:  # what the kernel says of a full disk
                save(state, device)
        save(state, stream)

    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(DiskFull, match="free some and give the same command again") as caught:
            train(net, objective(), SETTINGS, Execution(checkpoint=tmp_path / "a.pt"))
    assert caught.value.__cause__.errno == errno.ENOSPC  # type: ignore[union-attr]
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]
    log, again = io.StringIO(), network()
    train(again, objective(), SETTINGS, Execution(checkpoint=tmp_path / "a.pt", progress=Progress(log)))
    assert "goes on at step 9 of 28" in log.getvalue()
    train(other, objective(), SETTINGS)
    assert weights(again) == weights(other)


def test_a_disk_that_fills_inside_of_a_large_tensor_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's writer then raises a RuntimeError over the system's error."""

    class Filling(io.FileIO):
        def write(self, data) -> int | None:
            if self.tell() + len(data) > 1_000_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    torch.manual_seed(0)
    layer = nn.Linear(1000, 1000)  # 4 MB
    X = torch.randn(8, 1000)
    large = Objective(
        examples=8,
        batch=lambda rows, epoch: {"X": X[rows]},
        loss=lambda net, batch: net(batch["X"]).square().mean(),
    )
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *mode: Filling(self, "w") if self.suffix == ".partial" else opened(self, *mode)
    )
    with pytest.raises(DiskFull, match="no space left for the checkpoint") as caught:
        train(layer, large, SETTINGS, Execution(checkpoint=tmp_path / "a.pt"))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not list(tmp_path.iterdir())


def test_two_processes_share_each_batch(tmp_path: Path) -> None:
    """On the CPU through accelerate and gloo: without dropout and batch norm the weights are those of one process."""
    code = (
        "import sys, torch; from pathlib import Path; from dataclasses import replace; import test_train as t\n"
        "from microbudget.training.train import train\n"
        "net = t.plain_network(); done = train(net, t.objective(), replace(t.SETTINGS, batch_size=10))\n"
        "import os; Path(sys.argv[1], os.environ['RANK']).write_bytes(t.weights(net))\n"
        "torch.distributed.destroy_process_group()\n"
    )
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "LOCAL_WORLD_SIZE": "2"}
    common |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    workers = [preloaded.start(code, [str(tmp_path)], common | rank) for rank in ranks]
    try:
        assert [preloaded.status(worker) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    alone = plain_network()
    train(alone, objective(), replace(SETTINGS, batch_size=10))
    shared = np.frombuffer((tmp_path / "0").read_bytes(), np.float32)
    np.testing.assert_allclose(shared, np.frombuffer(weights(alone), np.float32), rtol=1e-3, atol=1e-5)


def plain_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_progress_tells_scores_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAY_EVERY_S", 0)
    log = io.StringIO()
    train(network(), objective(), SETTINGS, Execution(name="distill", progress=Progress(log)))
    lines = log.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("distill  epoch 1/4: train loss ")
    assert "validation accuracy" in lines[0]
    assert lines[0].endswith(" left")


def test_the_history_is_json_ready() -> None:
    import json

    done = train(network(), objective(), SETTINGS)
    assert json.loads(json.dumps(done.as_dict()))["kept"] == done.kept
    assert isinstance(done, Trained)
