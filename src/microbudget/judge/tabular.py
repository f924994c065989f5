"""Tabular: results as data, for scripts and notebooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra

if TYPE_CHECKING:
    import pandas as pd


class Tabular(ABC):
    """A result that is a dictionary, and rows of a table."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: what the command line prints with `--json`."""
        return self.as_dict()

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each row of the table; nested ones become columns such as `verdict.decision`."""
        return [self.as_dict()]

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a table. Raises MissingExtra without pandas."""
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtra("to_pandas() needs pandas: pip install 'microbudget[data]'") from error
        return pd.json_normalize(self.rows())
