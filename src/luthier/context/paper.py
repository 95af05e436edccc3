"""Where the room's method is published."""

from luthier.settings import Paper

LONG_CONTEXT = Paper(
    title="Effective Long-Context Scaling of Foundation Models",
    authors="Xiong, Liu, Molybog, Zhang, Bhargava, Hou, et al.",
    venue="NAACL 2024",
    url="https://arxiv.org/abs/2309.16039",
)
