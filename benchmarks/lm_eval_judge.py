"""lm-evaluation-harness's own code on a questions file: accuracies as JSON on the last line; for `questions.py`.

PYTHON benchmarks/lm_eval_judge.py MODEL FILE ROWS      PYTHON: of an environment of its own, which has `lm-eval`
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path


def main(model: str, file: str, rows: str) -> None:
    import datasets
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.jsonl"
        part.write_text("".join(Path(file).read_text("utf-8").splitlines(keepends=True)[: int(rows)]), "utf-8")
        task = ConfigurableTask(
            config={
                "task": "questions",
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": str(part), "cache_dir": folder},
                "test_split": "train",
                "output_type": "multiple_choice",
                "doc_to_text": "{{question}}",
                "doc_to_choice": "{{choices}}",
                "doc_to_target": "{{answer}}",
                "metric_list": [{"metric": name, "higher_is_better": True} for name in ("acc", "acc_norm")],
            }
        )
        network = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=8)
        found = lm_eval.simple_evaluate(network, tasks=[task], bootstrap_iters=0, verbosity="ERROR")
    results = found["results"]["questions"]
    print(json.dumps({name: results[f"{name},none"] for name in ("acc", "acc_norm")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
