"""What a model writes with. Nothing here imports torch, and annotations are no text, which pydantic would have to
compile one by one at every start."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from luthier.secrets import references
from luthier.settings import Settings


class EndpointSettings(Settings):
    """A server that speaks the OpenAI chat protocol."""

    # Whoever raises a cap that was reached goes on from what is there.
    without_effect_on_results: ClassVar[frozenset[str]] = frozenset(
        {"api_key", "retries", "seconds", "requests_per_minute", "at_once"}
        | {"max_requests", "max_cost", "price_in", "price_out"}
    )

    kind: Literal["endpoint"] = "endpoint"
    url: str = Field(pattern=r"^https?://", description="Up to and with `/v1`, as in `http://localhost:8000/v1`.")
    model: str = Field(min_length=1, description="Name of the model there.")
    api_key: str | None = Field(None, description="Write it as `${env:NAME}`.")
    retries: int = Field(5, ge=0, description="Further tries after a fault that may pass: 408, 429, 5xx, no answer.")
    seconds: float = Field(60.0, gt=0, le=86_400, description="How long one answer may take.")
    requests_per_minute: float | None = Field(None, gt=0, description="Most requests a minute; null has no limit.")
    at_once: int = Field(4, gt=0, description="Requests that are under way at the same time.")
    max_requests: int = Field(
        1000, gt=0, description="Requests of the whole stage to this model, retries included, after which it stops."
    )
    max_cost: float | None = Field(
        None, gt=0, description="What the whole stage may spend on it, in the currency of prices."
    )
    price_in: float = Field(0.0, ge=0, description="Price of a million prompt tokens.")
    price_out: float = Field(0.0, ge=0, description="Price of a million written tokens.")

    @property
    def is_here(self) -> bool:
        """Whether the server is this machine."""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")

    @property
    def address(self) -> tuple[str, str]:
        """The server and the model there: what a budget is of."""
        return self.url.rstrip("/"), self.model

    @model_validator(mode="after")
    def _can_be_sent(self) -> Self:
        """What stands in a request is checked here, before it is built deep inside a run; what variables of the
        environment are to fill in, once they have."""
        if references([self.url, self.api_key]):
            return self
        if not (self.url.isascii() and self.url.isprintable()) or " " in self.url:
            raise ValueError(
                "`url` has a blank or a letter that no address has: write it as a browser copies it, as %20"
            )
        try:
            address = urlsplit(self.url)
            found = bool(address.hostname) and address.port != 0
        except ValueError as error:
            raise ValueError(f"`url` is no address: {error}") from error
        if not found:
            raise ValueError("`url` names no server, or the port 0")
        key = (self.api_key or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ValueError("`api_key` has a line break or a letter that no key has: copy it again, as plain text")
        return self

    @model_validator(mode="after")
    def _cost_has_prices(self) -> Self:
        if self.max_cost is not None and not (self.price_in or self.price_out):
            raise ValueError("`max_cost` needs `price_in` or `price_out`, or nothing would ever cost anything")
        return self


class VllmSettings(Settings):
    """vLLM in this process, for machines with an accelerator; needs the extra `vllm`."""

    without_effect_on_results: ClassVar[frozenset[str]] = frozenset({"gpu_memory"})

    kind: Literal["vllm"] = "vllm"
    gpu_memory: float = Field(0.85, gt=0, le=1, description="Share of the accelerator's memory that it may take.")

    def extras(self) -> Mapping[str, str]:
        return {"vllm": "kind"}


class LocalSettings(Settings):
    """transformers in this process: batches of prompts of similar length, whose finished rows make room."""

    kind: Literal["local"] = "local"
    batch_size: int = Field(32, gt=0, description="Prompts that are answered at the same time.")


Backend = Annotated[LocalSettings | VllmSettings | EndpointSettings, Field(discriminator="kind")]
