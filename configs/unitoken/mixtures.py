"""The data of UniToken's two stages (paper, Table 1; ratios as in the released phase-2 list), and how each set becomes
a JSONL file with one record a line.

None of the sets comes with this project. The files lie in one folder (`data=` of the recipe) beside their pictures,
whose paths the records give relative to that folder. Four forms serve all of them (`unitok_jax.data.tasks`):

- *list*: published as a JSON list of ``{"image": path, "conversations": [{"from", "value"}]}``. Nothing has to be made
  of it: ``kind="llava"`` reads the list. For these recipes, which read JSONL, one line an item:
  ``jq -c '.[]' published.json > name.jsonl``.
- *lines*: published as such lines already; the columns may need other names (`fields` of a source).
- *questions*: columns of pictures, questions and answers. One line a picture, ``{"image": path, "conversations":
  [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}``; several questions about it are further
  turns. The text of OCR sets is the answer to a question that asks to read the picture. Pictures inside of parquet or
  tar files are written out beside it.
- *pairs*: picture and prompt, ``{"image": path, "caption": prompt}`` a line.

JSONL itself is a line of jq or a loop over a table. From there on there are commands: ``unitok prepare --source jsonl
path=data/name.jsonl --task conversation --out shards/name`` (or ``--source llava`` for a list) checks the records and
writes them with their pictures into shards, and ``unitok tokenize --workdir RUN --source jsonl path=data/name.jsonl
--out codes/name`` computes the codes ahead; ``kind="arrayrecord"`` reads both, codes with ``config.data.codes=True``.
The lengths by which the `bucketed` variants sort are measured at the first start, see `unitok_jax/data/lengths.py`; a
record's own ``"len"`` goes before.

Sizes are those the paper or the released list names, in thousands. Names were looked up in stored copies of public
pages and repositories, nothing was downloaded; where the paper's wording left several sets or none, it says
*not verified*.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One set.

    Attributes:
        name: of its file, without ``.jsonl``.
        public: where it is published: a Hugging Face id unless another place is named, with the part of it; or what the
            paper calls it and "not verified".
        form: ``list``, ``lines``, ``questions`` or ``pairs``: how it becomes JSONL, see above.
        thousands: of examples.
        ratio: the share of them that an epoch draws.
    """

    name: str
    public: str
    form: str
    thousands: int
    ratio: float = 1.0

    @property
    def examples(self) -> int:
        """Examples of an epoch."""
        return int(self.thousands * 1000 * self.ratio)


SYNTHDOG = "made by SynthDoG (github.com/clovaai/donut); naver-clova-ix/synthdog-{} has 65 k of one layout"
STAGE1 = (
    DataSet("sharegpt4v", "Lin-Chen/ShareGPT4V: share-captioner_coco_lcs_sam_1246k_1107.json", "list", 1246),
    DataSet("llava_detail", "not verified; by its size lmms-lab/LLaVA-ReCap-558K", "questions", 559),
    DataSet("allava_captions", "FreedomIntelligence/ALLaVA-4V: ALLaVA-Caption-{LAION,VFLAN}-4V.json", "list", 710),
)
UNDERSTANDING = (
    DataSet("sharegpt4v_en", "Lin-Chen/ShareGPT4V: sharegpt4v_instruct_gpt4-vision_cap100k.json", "list", 100),
    DataSet("sharegpt4v_zh", "not verified; a Chinese translation of the one before", "list", 100),
    DataSet("textocr_gpt4v", "jimmycarter/textocr-gpt4v", "questions", 25),
    DataSet("sa1b_dense_captions", "ModelScope: Tongyi-DataEngine/SA1B-Dense-Caption", "questions", 100),
    DataSet("chartqa_reason", "not verified; ChartQA's charts with reasoned answers", "questions", 390),
    DataSet("ureader", "Mizukiluke/ureader-instruction-1.0", "lines", 1100),
    DataSet("scigraphqa", "alexshengzhili/SciGraphQA-295K-train", "list", 296),
    DataSet("geo170k", "Luckyjhg/Geo170K: the questions, not the alignment part", "list", 118),
    DataSet("llava_1_6", "not verified; lmms-lab/LLaVA-NeXT-Data is half as large", "list", 1500),
    DataSet("m3it", "MMInstruction/M3IT", "questions", 920),
    DataSet("allava_sft_en", "FreedomIntelligence/ALLaVA-4V: ALLaVA-Instruct-{LAION,VFLAN}-4V.json", "list", 710),
    DataSet(
        "allava_sft_zh",
        "FreedomIntelligence/ALLaVA-4V-Chinese: ALLaVA-Instruct-{LAION,VFLAN}-4V_Chinese.json",
        "list",
        638,
    ),
    DataSet(
        "pdfa", "pixparse/pdfa-eng-wds; its tars hold PDFs, of which pages are to be drawn", "questions", 3000, 0.333
    ),
    DataSet("ocr_zh", "not verified; Chinese OCR of several sources", "questions", 600, 0.333),
    DataSet("synthdog_en_col1", SYNTHDOG.format("en"), "questions", 200),
    DataSet("synthdog_en_col3", SYNTHDOG.format("en"), "questions", 200),
    DataSet("synthdog_zh_col1", SYNTHDOG.format("zh"), "questions", 200),
    DataSet("synthdog_zh_col3", SYNTHDOG.format("zh"), "questions", 200),
    DataSet("websrc", "rootsautomation/websrc", "questions", 100),
)
GENERATION = (
    DataSet(
        "midjourney",
        "not verified; Midjourney pictures with their prompts, of which none as large was found",
        "pairs",
        10000,
    ),
)
STAGE2 = UNDERSTANDING + GENERATION
PAPER_UNDERSTANDING = 10_000_000  # examples, as many as are drawn


def entries(sets: tuple[DataSet, ...], folder: str, prompt: str, even: bool = False) -> list[dict]:
    """`config.data.train`.

    Args:
        sets: of the mixture.
        folder: where their files lie.
        prompt: what stands around a caption that is to be drawn.
        even: understanding and generation one to one, as in the paper, in the place of their sizes.
    """
    understanding = sum(each.examples for each in sets if each.form != "pairs")
    scale = PAPER_UNDERSTANDING / understanding if even else 1.0
    return [_entry(each, folder, prompt, 1.0 if each.form == "pairs" else scale) for each in sets]


def _entry(each: DataSet, folder: str, prompt: str, scale: float) -> dict:
    pairs = each.form == "pairs"
    return dict(
        kind="jsonl",
        path=f"{folder}/{each.name}.jsonl",
        task="generate" if pairs else "conversation",
        prompts=[prompt] if pairs else ["<|image|> "],  # before the first turn where a record marks no picture
        weight=float(each.examples * scale),
        ratio=each.ratio,
    )


def examples(sets: tuple[DataSet, ...], even: bool = False) -> int:
    """Examples of an epoch of a mixture."""
    drawn = sum(each.examples for each in sets if each.form == "pairs")
    return drawn + PAPER_UNDERSTANDING if even else sum(each.examples for each in sets)
