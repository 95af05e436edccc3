"""The PEFT configuration of instance-dependent prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd
from typing import ClassVar

from peft import PeftConfig
from peft.utils import PeftType
from peft.utils.constants import DUMMY_TARGET_MODULES

from luthier.methods.options import refuse_idle
from luthier.tuning.instance_prompt.options import OWN_SEGMENT, ConfigurationOptions, InstancePromptOptions


@dataclass
class InstancePromptConfig(InstancePromptOptions, ConfigurationOptions, PeftConfig):
    """Configuration of IDPG, instance-dependent prompt generation; the defaults are the paper's M-IDPG-PHM.

    Source: Wu et al., NAACL 2022, sections 3 and 4.

    Raises:
        ValueError: a value out of range, an option that would have no effect, or an order that does not divide
            the widths.
    """

    # PEFT reads this from every tuner's configuration; the tuner finds its place in the model by itself.
    target_modules: ClassVar[str] = DUMMY_TARGET_MODULES

    vector_width: int | None = field(
        default=None, metadata={"help": "Width of given vectors; None is the model's width."}
    )
    separator_token_id: int | None = field(
        default=None, metadata={"help": "The separator of positions 1 to 4; None reads it from the model's config."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules outside the generator that are trained and saved: the task head."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["INSTANCE_PROMPT"]
        self.check()

    def check(self) -> None:
        super().check()
        refuse_idle(
            phm_rank=self.phm_rank != 1 and self.generator != "low_rank_phm",
            vector_width=self.vector_width is not None and self.vector_source != "given",
        )
        self.check_order({"the bottleneck": self.bottleneck})

    def check_order(self, widths: dict[str, int]) -> None:
        """Raise ValueError where the PHM order does not divide all of these widths of the generator."""
        undivided = [f"{name} {width}" for name, width in widths.items() if width % self.phm_order]
        if self.generator != "dnn" and undivided:
            common = gcd(*widths.values())
            divisors = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
            raise ValueError(
                f"phm_order is {self.phm_order}, but must divide {', '.join(undivided)}; orders that do: {divisors}"
            )

    @property
    def vectors_per_layer(self) -> int:
        """Vectors that the generator makes for one layer: t, or 2 t where keys and values have their own."""
        return self.prompt_length * (2 if self.insertion == "key_value" else 1)

    @property
    def margin(self) -> int:
        """Separators on either side of the prompt that come with it."""
        return 1 if self.position == OWN_SEGMENT else 0

    @property
    def inserted(self) -> int:
        """Positions that the prompt takes in the sequence, its own separators included."""
        return self.positions_taken(self.prompt_length)
