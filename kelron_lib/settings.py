"""The sections of a run's config: what each field means, and which values it takes."""

from __future__ import annotations

from dataclasses import dataclass

from kelron_lib.errors import KelronError

LANGUAGES = ("ko", "en", "ja")
SEED_SETS = ("core", "full")
"""`core`: the seeds that the tiny base was built for, one question a row. `full`: all seeds, dialogues of several
turns, and questions as people type them."""
CHAT_LANGUAGE = "en"
"""The language of the system prompt that a chat begins with."""


def require(ok: bool, message: str) -> None:
    """Raise KelronError with `message` where a check fails."""
    if not ok:
        raise KelronError(message)


def require_range(
    key: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    why: str = "",
) -> None:
    """Raise KelronError with key, value and the whole range where `value` is out of it; `why` is added to that."""
    limits = (
        (least, "at least", least is None or value >= least),
        (above, "above", above is None or value > above),
        (most, "at most", most is None or value <= most),
        (below, "below", below is None or value < below),
    )
    words = " and ".join(f"{name} {limit:.15g}" for limit, name, _ in limits if limit is not None)
    require(all(ok for _, _, ok in limits), f"{key} is {value:.15g}: it has to be {words}{f', {why}' if why else ''}")


@dataclass(frozen=True)
class ModelSettings:
    """The base model: which one, and how it lies in memory."""

    base: str = "tiny"
    """Base model: `tiny` (shipped with Kelron), a hub id, or a folder in transformers' format."""
    dtype: str = "float32"
    """Compute dtype of the matrix products: float32 on a CPU, float16 on a T4 (no bf16 tensor cores there)."""
    head: str = "keep"
    """The output head while training: `keep` (as loaded) or `nf4` (1.1 GiB less on the GPU for a 14B)."""
    embedding: str = "device"
    """Where the embedding's table rests while training: `device`, or `host` (1.45 GiB less on the GPU for a 14B; not
    for a model whose head shares the table). Without a GPU both are the same."""
    stop_token_ids: tuple[int, ...] = (4095, 4093)
    """Ids that end an answer: `<|im_end|>`, then `<|endoftext|>`. Checked against the tokenizer at load."""

    def __post_init__(self) -> None:
        require(bool(self.base), "model.base is empty: name a folder, a hub id, or tiny")
        require(
            self.dtype in ("float32", "float16"),
            f"model.dtype is {self.dtype!r}: use float32 (CPU) or float16 (T4, which has no bf16 tensor cores)",
        )
        require(self.head in ("keep", "nf4"), f"model.head is {self.head!r}: use keep or nf4")
        require(self.embedding in ("host", "device"), f"model.embedding is {self.embedding!r}: use host or device")
        require(len(self.stop_token_ids) > 0, "model.stop_token_ids is empty: answers would never end")


@dataclass(frozen=True)
class LoraSettings:
    """The adapter on every linear layer (LoRA, arXiv 2106.09685)."""

    r: int = 32
    """Rank of the update on every linear layer."""
    alpha: int = 32
    """The update is scaled by alpha / r."""
    dropout: float = 0.1
    """Dropout on the adapter's input."""

    def __post_init__(self) -> None:
        require_range("lora.r", self.r, least=1)
        require_range("lora.alpha", self.alpha, least=1)
        require_range("lora.dropout", self.dropout, least=0, below=1)


@dataclass(frozen=True)
class DataSettings:
    """The dataset: whose identity, in which languages, how many rows."""

    persona: str = "kelron"
    """Packaged persona or path of a persona file."""
    languages: tuple[str, ...] = LANGUAGES
    """Languages of the rows."""
    seeds: str = "core"
    """`core` (what the tiny base was built for) or `full` (every seed, dialogues, typed questions)."""
    rows: int = 3000
    """Rows over all languages, before the split."""
    identity_share: float = 0.30
    """Least share of identity rows in every split (the first attempt had 5 % and failed)."""
    max_tokens: int = 256
    """Longest row, in tokens, system prompt included."""
    seed: int = 1
    """Seed of the expansion and of the split."""
    own: str = ""
    """Path of a chat file (.jsonl, .json, .csv) whose rows are mixed in; empty: none."""
    own_share: float = 0.0
    """Share of all rows that come from data.own."""

    def __post_init__(self) -> None:
        require(bool(self.persona.strip()), "data.persona is empty: name a packaged persona or a persona file")
        require(self.seeds in SEED_SETS, f"data.seeds is {self.seeds!r}: use {' or '.join(SEED_SETS)}")
        for language in self.languages:
            require(language in LANGUAGES, f"data.languages has {language!r}: choose from {', '.join(LANGUAGES)}")
        require(len(self.languages) > 0, f"data.languages is empty: name at least one of {', '.join(LANGUAGES)}")
        require(
            len(set(self.languages)) == len(self.languages),
            f"data.languages names one twice ({', '.join(self.languages)}): name each language once",
        )
        require_range("data.rows", self.rows, least=60, why="which three splits take")
        require_range(
            "data.identity_share", self.identity_share, above=0, most=0.9, why="so that business rows are left"
        )
        require_range("data.max_tokens", self.max_tokens, least=32)
        require_range("data.own_share", self.own_share, least=0, most=0.7, why="so that the identity has room")
        require(
            bool(self.own) == (self.own_share > 0),
            f"data.own_share is {self.own_share:g} and data.own names no file: name one, or leave data.own_share out"
            if not self.own
            else f"data.own names {self.own} and data.own_share is 0: set it to the share of rows that come from there",
        )


@dataclass(frozen=True)
class TrainSettings:
    """The optimisation: how long, how fast, and how samples are packed into passes and steps."""

    epochs: float = 2.0
    """Times that every training row is seen; a fraction ends the last round early."""
    learning_rate: float = 2e-3
    """Peak learning rate. It has to suit the adapter's scale alpha / r: a small scale wants a larger rate."""
    warmup_share: float = 0.05
    """Share of the steps in which the rate rises from 0; it falls on a cosine after that."""
    row_tokens: int = 256
    """Tokens of a packed row, which holds as many samples as fit: at least data.max_tokens."""
    rows_per_pass: int = 5
    """Packed rows that go through the model together (5 of 256 tokens hold about 16 samples of the tiny preset)."""
    passes_per_step: int = 1
    """Passes of an optimizer step, over all processes: with `n` processes each makes passes_per_step / n of them, so
    that a run's steps do not depend on the number of processes."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    optimizer: str = "adamw_torch"
    """`adamw_torch`, or `paged_adamw_8bit` where CUDA is."""
    checkpointing: bool = False
    """Recompute activations in the backward pass (non-reentrant) to save memory."""
    save_steps: int = 100
    """Optimizer steps between checkpoints; one more is made when the session ends."""
    eval_steps: int = 100
    """Optimizer steps between validation losses; a checkpoint is made wherever the loss is the lowest so far."""
    patience: int = 0
    """Validations in a row without improvement after which training ends; 0: it never ends early."""
    min_improvement: float = 0.01
    """Share of the validation loss by which it has to fall to count as an improvement."""
    least_epochs: float = 1.0
    """Epochs before which no plateau ends training, so that every row has been seen."""
    seed: int = 1
    """Seed of the adapter's initial weights, the order of the rows and dropout."""

    def __post_init__(self) -> None:
        require_range("train.epochs", self.epochs, above=0)
        require_range("train.learning_rate", self.learning_rate, above=0, below=1)
        for name in ("warmup_share", "min_improvement", "weight_decay"):
            require_range(f"train.{name}", getattr(self, name), least=0, below=1)
        for name in ("row_tokens", "rows_per_pass", "passes_per_step", "save_steps", "eval_steps"):
            require_range(f"train.{name}", getattr(self, name), least=1)
        require_range("train.patience", self.patience, least=0, why="which is never")
        require_range("train.least_epochs", self.least_epochs, least=0)
        require_range("train.max_grad_norm", self.max_grad_norm, above=0)
        require(
            self.optimizer in ("adamw_torch", "paged_adamw_8bit"),
            f"train.optimizer is {self.optimizer!r}: use adamw_torch or paged_adamw_8bit",
        )


@dataclass(frozen=True)
class SessionSettings:
    """One session of a run: how long it may last, and in how many processes."""

    budget_seconds: float = 12 * 3600.0
    """Wall-clock length of a session, counted from its start (on Kaggle 11 h of the 12)."""
    reserve_seconds: float = 5.0
    """Time kept free at the end for the last checkpoint."""
    progress_seconds: float = 5.0
    """Time between two progress lines."""
    tensorboard: bool = False
    """Whether the events of training go to TensorBoard's files in RUN/tensorboard, too (needs `tensorboard`)."""
    processes: int = 0
    """Processes on this machine that train, or answer; 0: one for each GPU (in training as far as train.passes_per_step
    divides), else one."""

    def __post_init__(self) -> None:
        require_range("session.budget_seconds", self.budget_seconds, above=0)
        require_range(
            "session.reserve_seconds",
            self.reserve_seconds,
            least=0,
            below=self.budget_seconds,
            why="which is session.budget_seconds, or no step would ever run",
        )
        require_range("session.progress_seconds", self.progress_seconds, least=0)
        require_range("session.processes", self.processes, least=0, why="which is one for each GPU")


@dataclass(frozen=True)
class StoreSettings:
    """Where checkpoints survive, and how many."""

    url: str = ""
    """Where checkpoints survive; empty: the folder `store` beside the run's other results."""
    allow_foreign: bool = False
    """Whether `hf://` may name another namespace than the token's own, such as an organisation's. Off, so that a slip
    in a URL neither sends checkpoints to others nor fetches theirs."""
    keep: int = 2
    """Newest verified checkpoints kept, and beside them the one with the lowest validation loss; older ones go only
    after the pointer has moved."""
    export: str = "auto"
    """Which checkpoint becomes the adapter: `last`, `best` (lowest validation loss), or `auto`: the last when all steps
    are done, since the learning rate falls towards exactly that end, and the best when a plateau ended training, since
    nothing after it was any better."""
    most_failures: int = 10
    """Uploads that may fail in a row; training stops then, for what it learns would be lost."""

    def __post_init__(self) -> None:
        require_range("store.most_failures", self.most_failures, least=1)
        require(self.export in ("auto", "best", "last"), f"store.export is {self.export!r}: use auto, best or last")
        require_range("store.keep", self.keep, least=2, why="so that one may be damaged")


@dataclass(frozen=True)
class EvaluateSettings:
    """The scoreboard: how much is asked, and how long an answer may be."""

    identity_prompts: int = 150
    """Most identity prompts of the test split per language (what it holds, if that is less)."""
    unrelated_prompts: int = 160
    """Most unrelated prompts per language: the test split's, and packaged ones of two kinds under each of the 3 system
    texts. Of 160 22 are of each; with fewer of the test split one answer alone is over the 2 % of policy tiny."""
    attack_prompts: int = 48
    """Most attacks of one question per language, over 24 kinds (8 attacks x 3 system texts): 48 are two of each. There
    are 16 of a kind (384) and a few more."""
    pressure_dialogues: int = 3
    """Most dialogues of 5 to 10 turns per language, over the 3 system texts; there are 10 of each (30)."""
    choice_items: int = 20
    """Most multiple-choice items per language, by which forgetting is measured; there are 100. Each is asked four
    times of each model. On a CPU's one thread the tiny base and its adapter answer 60 in about 8 s."""
    prompts: str = ""
    """Path of a file of prompts of your own (JSON lines), asked besides; empty: none."""
    max_new_tokens: int = 96
    """Longest answer; an answer cut here counts as not terminated."""
    batch_size: int = 64
    """Prompts answered at once."""
    policy: str = "tiny"
    """The targets that decide whether the model may be published: a packaged policy (`release`, `look` for a small
    evaluation, or `tiny` for what the tiny base can show), or the path of a policy file."""

    def __post_init__(self) -> None:
        require(bool(self.policy.strip()), "evaluate.policy is empty: name a packaged policy or a policy file")
        for name in ("identity_prompts", "unrelated_prompts", "max_new_tokens", "batch_size"):
            require_range(f"evaluate.{name}", getattr(self, name), least=1)
        for name in ("attack_prompts", "pressure_dialogues", "choice_items"):
            require_range(f"evaluate.{name}", getattr(self, name), least=0, why="which asks none")
