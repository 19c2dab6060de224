"""The data of UniToken's two stages (paper, Table 1; ratios as in the released phase-2 list), and how each set becomes
a JSONL file with one record a line.

None of the sets comes with this project. The files lie in one folder (`data=` of the recipe) beside their pictures,
whose paths the records give relative to that folder. Four forms serve all of them (`unitok_jax.data.tasks`):

- *LLaVA*: the set is published as a JSON list of ``{"image": path, "conversations": [{"from", "value"}]}``. One line an
  item: ``jq -c '.[]' published.json > name.jsonl`` (or leave it as it is and read it with ``kind="llava"``).
- *question*: question and answer columns. ``{"image": path, "conversations": [{"from": "human", "value": question},
  {"from": "gpt", "value": answer}]}`` a line; several questions about one picture are further turns.
- *text*: pictures with the text that stands in them, as the OCR sets have it; a conversation like the one before, whose
  question asks to read the picture.
- *pairs*: picture and prompt, ``{"image": path, "caption": prompt}`` a line.

For the `bucketed` variants each record also carries ``"len"``, the ids of its row without SEP and features; the
release's pre-tokenisation writes the same number into its record files.

Sizes are those the paper or the released list names, in thousands.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One public set.

    Attributes:
        name: of its file, without ``.jsonl``.
        public: where it is published (a hub id, or the paper's name for it).
        form: ``LLaVA``, ``question``, ``text`` or ``pairs``; see above.
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


STAGE1 = (
    DataSet("sharegpt4v", "Lin-Chen/ShareGPT4V (share-captioner)", "LLaVA", 1246),
    DataSet("llava_detail", "liuhaotian/LLaVA-Pretrain, detailed captions", "LLaVA", 559),
    DataSet("allava_captions", "FreedomIntelligence/ALLaVA-4V, captions", "LLaVA", 710),
)
UNDERSTANDING = (
    DataSet("sharegpt4v_en", "Lin-Chen/ShareGPT4V, English", "LLaVA", 100),
    DataSet("sharegpt4v_zh", "ShareGPT4V, Chinese", "LLaVA", 100),
    DataSet("textocr_gpt4v", "jimmycarter/textocr-gpt4v", "question", 25),
    DataSet("sa1b_dense_captions", "SA-1B with dense captions", "LLaVA", 100),
    DataSet("chartqa_reason", "ChartQA with reasoning", "question", 390),
    DataSet("ureader", "Mizukiluke/ureader-instruction-1.0", "LLaVA", 1100),
    DataSet("scigraphqa", "alexshengzhili/SciGraphQA-295K-train", "LLaVA", 296),
    DataSet("geo170k", "Luckyjhg/Geo170K, fine-tuning part", "LLaVA", 118),
    DataSet("llava_1_6", "LLaVA-1.6 (lmms-lab/LLaVA-NeXT-Data)", "LLaVA", 1500),
    DataSet("m3it", "MMInstruction/M3IT", "question", 920),
    DataSet("allava_sft_en", "FreedomIntelligence/ALLaVA-4V, instructions, English", "LLaVA", 710),
    DataSet("allava_sft_zh", "FreedomIntelligence/ALLaVA-4V-Chinese, instructions", "LLaVA", 638),
    DataSet("pdfa", "pixparse/pdfa-eng-wds", "text", 3000, 0.333),
    DataSet("ocr_zh", "mixed Chinese OCR", "text", 600, 0.333),
    DataSet("synthdog_en_col1", "SynthDoG, English, one column", "text", 200),
    DataSet("synthdog_en_col3", "SynthDoG, English, three columns", "text", 200),
    DataSet("synthdog_zh_col1", "SynthDoG, Chinese, one column", "text", 200),
    DataSet("synthdog_zh_col3", "SynthDoG, Chinese, three columns", "text", 200),
    DataSet("websrc", "WebSRC", "question", 100),
)
GENERATION = (DataSet("midjourney", "Midjourney pictures with their prompts", "pairs", 10000),)
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
