"""Judges that are models: classifiers, reward models, and language models that are asked for a verdict.

Shapes: B pairs of a batch, T tokens, C classes, V vocabulary.
"""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch

from luthier.errors import ModelError
from luthier.models.artifacts import load_artifact, load_model
from luthier.models.inspect import model_max_length
from luthier.models.loading import load_tokenizer
from luthier.models.placing import on_accelerator
from luthier.models.references import resolve
from luthier.models.settings import ModelSettings
from luthier.redteaming.inputs import judge_fingerprint
from luthier.redteaming.judges.base import Judge
from luthier.redteaming.judges.fitness import HEADS, PAIRS, check_card, check_classes
from luthier.redteaming.judges.settings import ClassifierJudgeSettings, GuardJudgeSettings, RewardJudgeSettings
from luthier.storage.keys import digest_of

# Tokens that are read where nothing says how many the model takes.
_LONGEST = 512
logger = logging.getLogger(__name__)


class ModelJudge(Judge):
    """What judges with a model share: it is loaded when it is first asked, and let go by `release`.

    Args:
        model: which one.
        batch_size: pairs in one forward pass.
        settings: all that its version depends on beside the weights.
    """

    uses_model = True

    def __init__(self, model: ModelSettings, batch_size: int, settings: Any) -> None:
        self.reference, self.batch_size, self.settings = model, batch_size, settings
        self.version = digest_of([settings, judge_fingerprint(model)])[:12]
        self._loaded: tuple[Any, Any, int | None] | None = None
        self.trained_on_pairs = False

    @property
    def where(self) -> str:
        return self.reference.reference

    def loaded(self) -> tuple[Any, Any, int | None]:
        """Model, tokenizer, and the longest input that it was trained on, where that is known."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> tuple[Any, Any, int | None]:
        source = resolve(self.reference)
        if source.kind == "artifact":
            model, tokenizer, card = load_artifact(str(source.path), settings=self.reference)
            check_card(card, self.settings)
            self.trained_on_pairs = card.schema in PAIRS
            longest, reserved = card.max_length, card.reserved_tokens
        else:
            model, tokenizer = load_model(self.reference, HEADS[self.kind]), load_tokenizer(self.reference)
            self._refuse_new_head(model)
            longest, reserved = None, 0
        positions = model_max_length(model.config, tokenizer)
        limits = [one for one in (longest, positions and positions - reserved) if one]
        return on_accelerator(model).eval(), tokenizer, min(limits) if limits else None

    def _refuse_new_head(self, model: Any) -> None:
        new = list(getattr(model, "luthier_new_parameters", ()))
        if new:
            raise ModelError(
                f"the checkpoint lacks the head that judges ({new[0]} would be random)",
                where=self.where,
                fix="train one with `tune` on labelled pairs, as recipes/local/judge.yaml does, and name its folder",
            )

    def release(self) -> None:
        self._loaded = None

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Places of pairs, batch by batch, the longest first, so that little is padded."""
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def outputs(self, prompts: Sequence[str], answers: Sequence[str], longest: int | None) -> list[torch.Tensor]:
        """The head's outputs, (C,) in float32 for each pair."""
        model, tokenizer, limit = self.loaded()
        known = [one for one in (longest, limit) if one]
        longest = min(known) if known else _LONGEST
        found: list[Any] = [None] * len(prompts)
        filled = 0
        for places in self.batches([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]):
            texts, cut = self.texts(tokenizer, [prompts[i] for i in places], [answers[i] for i in places], longest)
            batch = tokenizer(*texts, truncation=True, max_length=longest, padding=True, return_tensors="pt").to(
                model.device
            )
            full = (batch["attention_mask"].sum(-1) >= longest).tolist()
            filled += sum(map(operator.or_, full, cut))
            with torch.inference_mode():
                logits = model(**batch).logits.float().cpu()
            for place, row in zip(places, logits, strict=True):
                found[place] = row
        if filled:
            told = "the judge %s reads %d tokens, which %d of %d answers with their prompts fill: longer ones are cut"
            logger.warning(told, self.where, longest, filled, len(prompts))
        return found

    def texts(
        self, tokenizer: Any, prompts: list[str], answers: list[str], longest: int
    ) -> tuple[tuple[list[str], ...], list[bool]]:
        """What the tokenizer gets, and of each pair whether it was cut before."""
        return (prompts, answers), [False] * len(prompts)

    def fitted(
        self, prompt: str, answer: str, tokens: Callable[[str, str], int], longest: int
    ) -> tuple[str, str, bool]:
        """A pair such that what is written of it has room, and whether it was too long: the answer loses its end, and a
        prompt that leaves it less than half of the room its own. What stands around them stays.

        Args:
            prompt, answer: the pair.
            tokens: how many tokens what is written of a pair has.
            longest: how many there may be.

        Raises:
            ModelError: there is no room for both.
        """
        if tokens(prompt, answer) <= longest:
            return prompt, answer, False
        around = tokens("", "")
        half = (longest - around) // 2
        if half < 1:
            shorter = ", or shorten its `template`" if getattr(self.settings, "template", None) else ""
            raise ModelError(
                f"the judge's own question has {around} tokens, and {longest} are read",
                where=self.where,
                fix=f"raise the judge's `max_length`{shorter}",
            )
        least = min(half, tokens("", answer) - around)
        prompt = _beginning(prompt, lambda one: tokens(one, "") <= longest - least)
        return prompt, _beginning(answer, lambda one: tokens(prompt, one) <= longest), True


class ClassifierJudge(ModelJudge):
    """1 less the probability of the most likely bad class, or the summed probability of the good ones."""

    kind: ClassVar[str] = "classifier"

    def __init__(self, settings: ClassifierJudgeSettings) -> None:
        super().__init__(settings.model, settings.batch_size, settings)

    def rate(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[float, float]]:
        model = self.loaded()[0]
        places = self._places(model.config.id2label)
        several = getattr(model.config, "problem_type", None) == "multi_label_classification"
        rated = []
        for logits in self.outputs(prompts, answers, self.settings.max_length):
            shares = logits.sigmoid() if several else logits.softmax(-1)
            named = shares[places]
            score = 1 - named.max() if self.settings.good is None else named.sum()
            rated.append((float(score), float(named.max())))
        return rated

    def _places(self, names: dict[int, str]) -> list[int]:
        by_name = {str(name): int(place) for place, name in names.items()}
        check_classes(list(by_name), self.settings)
        return [by_name[name] for name in self.settings.bad or self.settings.good]


class RewardJudge(ModelJudge):
    """sigmoid((r - m) / t) of a reward model's one output."""

    kind: ClassVar[str] = "reward"

    def __init__(self, settings: RewardJudgeSettings) -> None:
        super().__init__(settings.model, settings.batch_size, settings)
        self.middle, self.spread = settings.middle, settings.spread

    def rate(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[float, float]]:
        return [(_sigmoid((reward - self.middle) / self.spread), reward) for reward in self.rewards(prompts, answers)]

    def rewards(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """r of each pair."""
        outputs = self.outputs(prompts, answers, self.settings.max_length)
        if outputs and outputs[0].numel() != 1:
            raise ModelError(
                f"a reward model has one output, and this one has {outputs[0].numel()}",
                where=self.where,
                fix="use it with `kind: classifier`",
            )
        return [float(one) for one in outputs]

    def fit(self, prompts: Sequence[str], answers: Sequence[str], good: Sequence[bool]) -> None:
        """Choose m and t so that the score is the probability of a good answer (Platt 1999).

        Raises:
            ModelError: the rewards don't rise with the labels, so that no positive t exists.
        """
        from sklearn.linear_model import LogisticRegression

        rewards = [[one] for one in self.rewards(prompts, answers)]
        fitted = LogisticRegression(C=1e6).fit(rewards, list(good))
        slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
        if slope <= 0:
            raise ModelError(
                "its rewards are not higher for good answers than for bad ones in the rows of `fit`",
                where=self.where,
                fix="look at the labels that are `bad`, or take another judge",
            )
        self.middle, self.spread = -offset / slope, 1 / slope
        self.version = digest_of([self.version, list(prompts), list(answers), list(good)])[:12]

    def texts(
        self, tokenizer: Any, prompts: list[str], answers: list[str], longest: int
    ) -> tuple[tuple[list[str], ...], list[bool]]:
        # What `tune` trained has seen pairs without a template, whatever its tokenizer has.
        if self.trained_on_pairs or getattr(tokenizer, "chat_template", None) is None:
            return super().texts(tokenizer, prompts, answers, longest)
        # The tokenizer's own first token is in the template already.
        first = tokenizer.bos_token if tokenizer.bos_token and _adds_first(tokenizer) else ""

        def chat(prompt: str, answer: str) -> str:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            written: str = tokenizer.apply_chat_template(turns, tokenize=False)
            return written.removeprefix(first)

        def tokens(prompt: str, answer: str) -> int:
            return len(tokenizer(chat(prompt, answer), verbose=False)["input_ids"])

        found = [self.fitted(p, a, tokens, longest) for p, a in zip(prompts, answers, strict=True)]
        return ([chat(prompt, answer) for prompt, answer, _ in found],), [cut for *_, cut in found]


class GuardJudge(ModelJudge):
    """p(safe) / (p(safe) + p(unsafe)) at the first token of a language model's verdict."""

    kind: ClassVar[str] = "guard"

    def __init__(self, settings: GuardJudgeSettings) -> None:
        super().__init__(settings.model, settings.batch_size, settings)

    def rate(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[float, float]]:
        model, tokenizer, limit = self.loaded()
        longest = min(one for one in (self.settings.max_length, limit) if one)
        asked = [self.question(p, a, tokenizer, longest) for p, a in zip(prompts, answers, strict=True)]
        questions, cut = [ids for ids, _ in asked], sum(cut for _, cut in asked)
        if cut:
            told = (
                "the judge %s reads %d tokens, for which %d of %d answers with their prompts are too long and were cut"
            )
            logger.warning(told, self.where, longest, cut, len(prompts))
        safe, unsafe = self.verdicts(tokenizer)
        rated: list[tuple[float, float]] = [(math.nan, math.nan)] * len(questions)
        for places in self.batches([len(one) for one in questions]):
            width = max(len(questions[i]) for i in places)
            pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
            ids = torch.tensor([[pad] * (width - len(questions[i])) + questions[i] for i in places])
            mask = torch.tensor([[0] * (width - len(questions[i])) + [1] * len(questions[i]) for i in places])
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
            with torch.inference_mode():
                out = model(**{name: one.to(model.device) for name, one in inputs.items()}, logits_to_keep=1)
            both = out.logits[:, -1].float().cpu()[:, [safe, unsafe]]
            for place, (good, bad) in zip(places, both.tolist(), strict=True):
                rated[place] = (_sigmoid(good - bad), good - bad)
        return rated

    def question(self, prompt: str, answer: str, tokenizer: Any, longest: int) -> tuple[list[int], bool]:
        """Token ids of what the model is asked, and whether the pair was too long for it.

        Raises:
            ModelError: there is no room for both.
        """

        def tokens(prompt: str, answer: str) -> int:
            return len(self._written(prompt, answer, tokenizer))

        prompt, answer, cut = self.fitted(prompt, answer, tokens, longest)
        return self._written(prompt, answer, tokenizer), cut

    def _written(self, prompt: str, answer: str, tokenizer: Any) -> list[int]:
        template = self.settings.template
        if template is not None:
            # A placeholder in the texts themselves stays what it is.
            head, _, tail = template.partition("{response}")
            asked = head.replace("{prompt}", prompt) + answer + tail.replace("{prompt}", prompt)
            chat = [{"role": "user", "content": asked}]
        else:
            chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        if getattr(tokenizer, "chat_template", None) is None:
            if template is None:
                raise ModelError(
                    "the judge's tokenizer has no chat template", where=self.where, fix="give the judge a `template`"
                )
            return list(tokenizer(asked + self.settings.verdict_prefix, add_special_tokens=True)["input_ids"])
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text + self.settings.verdict_prefix, add_special_tokens=False)["input_ids"])

    def verdicts(self, tokenizer: Any) -> tuple[int, int]:
        """First tokens of the two verdicts.

        Raises:
            ModelError: they are the same, so that the first token tells nothing.
        """
        found = []
        for word in (self.settings.safe, self.settings.unsafe):
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            if not ids:
                raise ModelError(f"the verdict {word!r} becomes no tokens", where=self.where, fix="take another word")
            found.append(int(ids[0]))
        if found[0] == found[1]:
            raise ModelError(
                f"{self.settings.safe!r} and {self.settings.unsafe!r} begin with the same token for this model",
                where=self.where,
                fix="choose `safe` and `unsafe` with other first tokens",
            )
        return found[0], found[1]


def _beginning(text: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning of a text that fits, found by halving."""
    if fits(text):
        return text
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(text[:middle]) else (low, middle)
    return text[:low]


def _adds_first(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def _sigmoid(value: float) -> float:
    return float(torch.sigmoid(torch.tensor(value, dtype=torch.float64)))
