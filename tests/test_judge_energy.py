import pytest

from microbudget.judge import energy
from microbudget.judge.energy import Nvml, Rapl, estimate, find_meter, power_class


def zone(root, name, kind, microjoules, whole=262_143_328_850):
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(kind + "\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{whole}\n")
    return folder / "energy_uj"


@pytest.fixture
def recorded(tmp_path):
    """The tree of a two-socket machine with memory zones, as the kernel lays it out."""
    (tmp_path / "sys/class/powercap/intel-rapl").mkdir(parents=True)
    return {
        "package 0": zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000),
        "core 0": zone(tmp_path, "intel-rapl:0:0", "core", 400_000),
        "dram 0": zone(tmp_path, "intel-rapl:0:1", "dram", 50_000),
        "package 1": zone(tmp_path, "intel-rapl:1", "package-1", 7_000_000),
        "system": zone(tmp_path, "intel-rapl:2", "psys", 9_000_000),
    }


def test_rapl_adds_packages_and_memory_and_leaves_out_what_they_hold(tmp_path, recorded):
    meter = find_meter(root=tmp_path)
    assert meter is not None
    assert meter.source == "rapl"
    before = meter.read()
    for name, file in recorded.items():
        file.write_text(str(int(file.read_text()) + {"package 0": 2_000_000, "dram 0": 250_000}.get(name, 500_000)))
    assert meter.since(before) == pytest.approx(2.0 + 0.25 + 0.5)


def test_a_counter_that_began_anew_counts_right(tmp_path):
    file = zone(tmp_path, "intel-rapl:0", "package-0", 900, whole=1000)
    meter = Rapl(tmp_path)
    before = meter.read()
    file.write_text("150")
    assert meter.since(before) == pytest.approx(250e-6)


def test_amd_zones_are_found_too(tmp_path):
    zone(tmp_path, "amd-rapl:0", "package-0", 5)
    assert find_meter(root=tmp_path) is not None


@pytest.mark.parametrize("damage", ["none", "unreadable", "garbage", "only psys"])
def test_without_readable_counters_there_is_no_meter(tmp_path, damage):
    if damage == "unreadable":
        zone(tmp_path, "intel-rapl:0", "package-0", 5).unlink()
    elif damage == "garbage":
        zone(tmp_path, "intel-rapl:0", "package-0", 5).write_text("n/a")
    elif damage == "only psys":
        zone(tmp_path, "intel-rapl:0", "psys", 5)
    assert find_meter(root=tmp_path) is None


class Library:
    """The part of NVML that the meter uses, with counters in millijoules."""

    def __init__(self, *counters: int) -> None:
        self.counters = list(counters)

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return len(self.counters)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, device):
        if self.counters[device] is None:
            raise RuntimeError("Not Supported")
        return self.counters[device]


def test_nvml_adds_its_gpus():
    library = Library(1000, 5000)
    meter = find_meter("cuda", nvml=library)
    assert isinstance(meter, Nvml)
    before = meter.read()
    library.counters = [1500, 6000]
    assert meter.since(before) == pytest.approx(1.5)
    assert meter.source == "nvml"


@pytest.mark.parametrize("library", [Library(), Library(None)])
def test_a_gpu_that_does_not_tell_is_no_meter(library):
    assert find_meter("cuda", nvml=library) is None


@pytest.mark.parametrize(
    ("cpu", "kind"),
    [
        ("AMD EPYC", "server"),
        ("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", "server"),
        ("12th Gen Intel(R) Core(TM) i7-1260P", "laptop"),
        ("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz", "laptop"),
        ("11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", "laptop"),
        ("AMD Ryzen 7 5800H with Radeon Graphics", "laptop"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "desktop"),
        ("Intel(R) Core(TM) i9-10900K CPU @ 3.70GHz", "desktop"),
        ("Apple M2 Pro", "Apple silicon"),
        ("Raspberry Pi 5 Model B Rev 1.0", "ARM board"),
        ("Neoverse-N1", "server"),
        ("something new", "unknown"),
    ],
)
def test_the_kind_of_a_processor(cpu, kind):
    assert power_class(cpu).name == kind


def test_an_estimate_grows_with_processor_time_and_tells_its_range_and_source():
    one, two = estimate(0.01, "AMD EPYC"), estimate(0.02, "AMD EPYC")
    assert two.joules == pytest.approx(2 * one.joules)
    assert one.low_j < one.joules < one.high_j
    assert one.source == "estimate"
    assert "SPECpower" in one.how
    assert "estimate" in str(one)


@pytest.mark.parametrize("kind", [energy.SERVER, energy.DESKTOP, energy.LAPTOP, energy.APPLE, energy.BOARD])
def test_every_kind_lies_within_its_range_and_that_of_the_unknown(kind):
    assert energy.UNKNOWN.low <= kind.low < kind.watts < kind.high <= energy.UNKNOWN.high


class Runner:
    """A worker whose block of calls moves a counter by 3 mJ a call."""

    def __init__(self, file) -> None:
        self.file, self.calls = file, 0

    def time_block(self, calls, dropped):
        self.calls += calls + dropped
        self.file.write_text(str(int(self.file.read_text()) + 3000 * (calls + dropped)))


def test_a_reading_is_divided_by_the_calls_that_ran_between(tmp_path):
    runner = Runner(zone(tmp_path, "intel-rapl:0", "package-0", 0))
    used = energy.of_model(runner, call_s=0.01, processor_s=1.0, meter=Rapl(tmp_path))
    assert used.joules == pytest.approx(3e-3)
    assert used.source == "rapl"
    assert runner.calls * 0.01 >= energy.READ_S


def test_without_a_meter_nothing_runs():
    assert energy.of_model(None, call_s=0.01, processor_s=0.02).source == "estimate"
