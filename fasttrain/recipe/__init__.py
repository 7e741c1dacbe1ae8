"""The settings of a training run, as a frozen dataclass with one field per flag."""
