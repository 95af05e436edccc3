"""How a vocabulary is built: text, sampling, models of languages, clusters, capacities, the merged model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from luthier.errors import LuthierError
from luthier.language_modeling.corpus_settings import CorpusSettings, Sources, TextFormat
from luthier.settings import Settings

FingerprintKind = Literal["neg_logprob", "prob", "binary", "tfidf"]
ClusterMethod = Literal["kmeans", "agglomerative", "pins"]
CapacityRule = Literal["alp", "union", "uniform", "file"]
MergeRule = Literal["first", "max", "mixture", "refit"]
Normaliser = Literal["nmt_nfkc", "nfkc", "identity"]


class LanguageSource(Settings):
    """The text of one language. A string or a list is short for `{sources: ...}`."""

    path_fields: ClassVar[tuple[str, ...]] = ("sources",)

    sources: Sources = Field(min_length=1, description="Files, patterns, `package:...`, `hub:...`, as in a corpus.")

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"sources": value} if isinstance(value, str | list) else value

    def missing(self) -> Iterator[tuple[str, LuthierError]]:
        """Files that are not there, or empty."""
        for _, error in CorpusSettings(train=self.sources).missing():
            yield "sources", error


def _as_it_is(value: Any) -> Any:
    """Takes part in the JSON schema alone."""
    return value


Source = Annotated[LanguageSource, BeforeValidator(_as_it_is, json_schema_input_type=str | list[str] | LanguageSource)]


class LanguageText(Settings):
    """Raw text by language. A plain string is short for `{folder: STRING}`."""

    path_fields: ClassVar[tuple[str, ...]] = ("folder",)

    folder: str | None = Field(
        None,
        description="A folder with one file or one folder a language, named after it: `de.txt`, `sw.jsonl.gz`, "
        "`pt.BR.txt.zst`, `zh/part-1.txt`.",
    )
    languages: dict[str, Source] = Field(
        default_factory=dict, description="Language -> its sources, in place of a folder or beside it."
    )
    text: str = Field("text", description="Column or field of the text; txt files have no other.")
    format: TextFormat | None = Field(None, description="Format of the files, when their names do not tell.")
    encoding: str = Field("utf-8", description="Encoding of text files.")
    max_line_megabytes: float = Field(
        8.0, gt=0, description="Longest line of a text file that is believed. Longer ones are an error."
    )
    unspaced: list[str] | None = Field(
        None,
        description="Languages that are written without blanks between words, which are learned from sentences and "
        "not from counted words; null tells them by their letters.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"folder": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_are_plain(self) -> Self:
        from luthier.vocabulary.folders import is_name

        for name in self.languages:
            if not is_name(name):
                raise ValueError(f"{name!r} can't name a language here: no slashes, no dot in front, no odd characters")
        return self

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if self.folder is None and not self.languages:
            raise ValueError("no text: give `folder`, or `languages`")
        return self

    def missing(self) -> Iterator[tuple[str, LuthierError]]:
        """A folder that is not there, or holds no text or an empty file."""
        from luthier.vocabulary.folders import folder_sources

        if self.folder is None:
            return
        try:
            found = folder_sources(self.folder)
        except LuthierError as error:
            yield "folder", error
            return
        for files in found.values():
            for _, problem in CorpusSettings(train=files).missing():
                yield "folder", problem

    def corpus(self, sources: list[str]) -> CorpusSettings:
        """How the sources of one language are read."""
        alike = self.model_dump(include={"text", "format", "encoding", "max_line_megabytes"})
        return CorpusSettings(train=sources, **alike)


TextByLanguage = Annotated[LanguageText, BeforeValidator(_as_it_is, json_schema_input_type=str | LanguageText)]


class SampleSettings(Settings):
    """S1: how much of each language's text is learned from."""

    lines: int | None = Field(
        None, gt=0, description="Lines of all languages together; null is as many as there are. Published: 1e9."
    )
    exponent: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of a language is proportional to its lines to this power: 1 keeps the proportions, 0 makes "
        "all equal. A language with fewer lines than its share counts each of them several times.",
    )
    most_words: int = Field(
        5_000_000, gt=0, description="Distinct words of one language that are counted at a time; rare ones go first."
    )
    most_sentences: int = Field(
        1_000_000, gt=0, description="Sentences of one language without blanks that are kept, drawn evenly."
    )


class TrainerSettings(Settings):
    """Of every unigram model that is trained, as SentencePiece calls them."""

    character_coverage: float = Field(0.9995, gt=0, le=1, description="Share of letters that have a piece.")
    longest_piece: int = Field(16, gt=0, description="Letters in the longest piece.")
    byte_fallback: bool = Field(False, description="Unknown letters become bytes, which are 256 more pieces.")
    normaliser: Normaliser = Field("nmt_nfkc", description="How text is normalised before it is cut.")
    split_by_unicode_script: bool = Field(True, description="No piece has letters of two scripts.")
    split_by_number: bool = Field(True, description="No piece has digits beside letters.")
    split_digits: bool = Field(False, description="Every digit is a piece of its own.")
    whole_words: bool = Field(
        True,
        description="Whether every word that occurs twice may become a piece. SentencePiece finds few of them in "
        "counted words, and not all in lines; false leaves its candidates as they are.",
    )
    seed_pieces: int = Field(
        1_000_000,
        gt=0,
        description="Candidates that training starts from; at least 1.2 times the pieces.",
    )


class FingerprintSettings(Settings):
    """S3: what of a language's model tells it from others."""

    kind: FingerprintKind = Field(
        "neg_logprob",
        description="`neg_logprob` is the published -log p, `prob` is p, `binary` whether a piece is there, `tfidf` p "
        "times the log of how few languages have it. Beside `absent: 0`, `neg_logprob` weighs rare pieces most.",
    )
    absent: float = Field(0.0, description="Value of a piece that a language does not have.")
    normalise: Literal["none", "l2"] = Field(
        "l2",
        description="`l2` gives every fingerprint length 1; `none` is the published setting, under which k-means parts "
        "few languages that have long fingerprints from all others.",
    )


class ClusterSettings(Settings):
    """S4: which languages share a model."""

    method: ClusterMethod = Field("kmeans", description="`pins` takes `pins` as they are, and needs all languages.")
    count: int | None = Field(
        None, gt=0, description="Clusters; null is 8, or as many as languages. 1 is one joint model."
    )
    starts: int = Field(10, gt=0, description="Random starts of k-means, of which the best counts.")
    must_link: list[list[str]] = Field(
        default_factory=list, description="Languages that stay together, a list for each such group."
    )
    pins: dict[str, int] = Field(
        default_factory=dict, description="Language -> number of its cluster, from 1; others go to the nearest."
    )

    @model_validator(mode="after")
    def _pins_fit(self) -> Self:
        if self.method == "pins" and not self.pins:
            raise ValueError("`method: pins` needs `pins`")
        if self.method == "pins" and (self.must_link or self.count):
            raise ValueError("`must_link` and `count` have no effect beside `method: pins`")
        if self.method == "agglomerative" and self.pins:
            raise ValueError("`pins` have no effect beside `method: agglomerative`: use `must_link`, or k-means")
        if self.method != "kmeans" and self.changed("starts"):
            raise ValueError(f"`starts` has no effect beside `method: {self.method}`")
        if any(len(set(group)) < 2 for group in self.must_link):
            raise ValueError("a group of `must_link` that is one language has no effect")
        if any(number < 1 for number in self.pins.values()):
            raise ValueError("`pins` count clusters from 1")
        if self.count is not None and (last := max(self.pins.values(), default=0)) > self.count:
            raise ValueError(f"`pins` name cluster {last}, and `count` makes {self.count}")
        return self


class CapacitySettings(Settings):
    """S5: how many pieces each cluster gets."""

    rule: CapacityRule = Field(
        "alp",
        description="`alp` follows what pieces are worth to each language (VoCap), `union` the union of the members' "
        "vocabularies (Chung et al.), `uniform` the number of members, `file` the numbers of `file`.",
    )
    file: str | None = Field(
        None, description="JSON file of `rule: file`: language -> pieces, or any numbers in that proportion."
    )
    alpha: float = Field(0.7, ge=0, description="Power of a language's share of lines.")
    beta: float = Field(0.7, ge=0, description="Power of that once more, as its weight among others.")
    rescale: bool = Field(True, description="Whether `alpha` and `beta` are used; else the shares as they are.")
    step: int = Field(1000, gt=0, description="Pieces that a language gets at a time.")
    least: int = Field(1000, gt=0, description="Fewest pieces of a language.")
    most: int = Field(50_000, gt=0, description="Most pieces of a language.")
    curve: Literal["trained", "pruned"] = Field(
        "trained",
        description="`trained` trains a model for every size; `pruned` trains the largest one and takes its likeliest "
        "pieces, an approximation that is far quicker.",
    )
    tail: list[str] = Field(default_factory=list, description="Languages that get `tail_pieces` without a curve.")
    tail_pieces: int = Field(2000, gt=0, description="Pieces of each of those.")
    parity: bool = Field(
        False,
        description="Do as VoCap's reference code does: bisect a threshold between 0 and 100, keep the last power "
        "where `rescale` is off, pad with English pieces, refuse where a language wants more than its largest size.",
    )

    path_fields: ClassVar[tuple[str, ...]] = ("file",)

    @model_validator(mode="after")
    def _file_fits(self) -> Self:
        if (self.rule == "file") != (self.file is not None):
            raise ValueError("`file` goes with `rule: file`")
        if self.least > self.most:
            raise ValueError("`least` is above `most`")
        own = ("alpha", "beta", "curve", "least", "most", "parity", "rescale", "step", "tail", "tail_pieces")
        if self.rule != "alp" and (given := self.changed(*own)):
            raise ValueError(f"`{given[0]}` has no effect beside `rule: {self.rule}`")
        powers = ("alpha",) if self.parity else ("alpha", "beta")
        if not self.rescale and (given := self.changed(*powers)):
            raise ValueError(f"`{given[0]}` has no effect beside `rescale: false`")
        if not self.tail and self.changed("tail_pieces"):
            raise ValueError("`tail_pieces` has no effect without `tail`")
        return self

    def missing(self) -> Iterator[tuple[str, LuthierError]]:
        """A file that is not there, or empty."""
        from luthier.data.sources.base import check_there_and_filled

        try:
            if self.file is not None:
                check_there_and_filled(self.file)
        except LuthierError as error:
            yield "file", error


class MergeSettings(Settings):
    """S7: one model from those of the clusters."""

    rule: MergeRule = Field(
        "first",
        description="Score of a piece that several clusters have: `first` and `max` keep one of theirs, `mixture` is "
        "the log of the weighted sum of probabilities, and weighs every piece; `refit` counts all anew on the sample.",
    )
    weights: Literal["sampled", "uniform"] = Field(
        "sampled", description="Of clusters under `mixture`: their shares of the sampled lines, or all the same."
    )
    passes: int = Field(3, gt=0, description="Passes of `refit`.")
    score_step: float = Field(
        2.0**-10,
        ge=0,
        description="Scores are rounded to a multiple of this, so that sums are exact and every encoder cuts alike; 0 "
        "keeps them as they are.",
    )

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if self.rule != "mixture" and self.changed("weights"):
            raise ValueError(f"`weights` has no effect beside `rule: {self.rule}`")
        if self.rule != "refit" and self.changed("passes"):
            raise ValueError(f"`passes` has no effect beside `rule: {self.rule}`")
        return self


class RaySettings(Settings):
    """Ray, on whose machines languages and clusters are worked on; they need the same Luthier and shared files."""

    address: str = Field(
        "local",
        pattern=r"^(local|auto|[^:/\s]+:\d+)$",
        description="`local` starts Ray on this machine; `auto` takes the one that runs on it; `HOST:PORT` names one.",
    )
    memory_gb: float | None = Field(
        None, gt=0, description="GB of memory that Ray keeps free for each job; null asks for one processor alone."
    )

    def extras(self) -> Mapping[str, str]:
        """Ray is an extra."""
        return {"ray": ""}


class VocabularySettings(Settings):
    """All of it."""

    without_effect_on_results: ClassVar[frozenset[str]] = frozenset({"processes", "ray"})

    text: TextByLanguage = Field(
        description="The text: a folder with one file or folder a language, or sources by name."
    )
    size: int = Field(
        gt=0,
        description="Pieces of all clusters together; one that several have counts for each of them, and is one token.",
    )
    sample: SampleSettings = Field(default_factory=SampleSettings, description="How much of the text is taken.")
    language_pieces: int = Field(30_000, gt=0, description="S2: pieces of the model of each language.")
    trainer: TrainerSettings = Field(default_factory=TrainerSettings, description="Settings of all unigram models.")
    fingerprint: FingerprintSettings = Field(
        default_factory=FingerprintSettings, description="What languages are compared by."
    )
    cluster: ClusterSettings = Field(default_factory=ClusterSettings, description="Which languages share a model.")
    capacity: CapacitySettings = Field(
        default_factory=CapacitySettings, description="How many pieces the clusters get."
    )
    merge: MergeSettings = Field(default_factory=MergeSettings, description="How the clusters' models become one.")
    processes: int = Field(
        1, gt=0, description="Languages and clusters that are worked on at the same time on this machine."
    )
    ray: RaySettings | None = Field(
        None, description="Work on as many at a time as a Ray cluster has processors, in place of `processes`."
    )

    @model_validator(mode="after")
    def _one_kind_of_workers(self) -> Self:
        if self.ray is not None and self.processes != 1:
            raise ValueError("`processes` has no effect beside `ray`, which takes all processors of its machines")
        return self
