"""Collectives read from a compiled program's text: loops, reduce-scatters, transfers between slices."""

from unitok_jax.planning.hlo import read_collectives

TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (input: f32[1024,256]) -> f32[256,256] {
  %all-reduce.18 = f32[1024,256]{1,0:T(8,128)} all-reduce(%input), channel_id=8, replica_groups={{0,4,8,12},{1,5,9,13}}, to_apply=%add
  ROOT %cut = f32[256,256]{1,0} dynamic-slice(%all-reduce.18, %i, %j), dynamic_slice_sizes={256,256}
}

%start (p: bf16[1,256,256]) -> bf16[1,1024,256] {
  %all-gather.45 = bf16[1,1024,256]{2,1,0} all-gather(%p), channel_id=13, replica_groups=[4,4]<=[16], dimensions={1}
  ROOT %custom = bf16[1,1024,256]{2,1,0} custom-call(%all-gather.45), custom_call_target="AsyncCollectiveStart"
}

%done (p: bf16[1,256,256]) -> bf16[1,1024,256] {
  ROOT %all-gather.49 = bf16[1,1024,256]{2,1,0} all-gather(%p), channel_id=13, replica_groups=[4,4]<=[16], dimensions={1}
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %fusion.1 = bf16[1,1024,256]{2,1,0} fusion(%x), kind=kCustom, calls=%start
  %fusion.2 = bf16[1,1024,256]{2,1,0} fusion(%fusion.1), kind=kCustom, calls=%done
  %fusion.3 = f32[256,256]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %tuple = (s32[], f32[8]) tuple(%i, %z)
}

%condition (state: (s32[], f32[8])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(32)
  ROOT %less = pred[]{:T(512)} compare(%i, %constant.5), direction=LT
}

ENTRY %main (p0: f32[8]) -> f32[8] {
  %while.1 = (s32[], f32[8]) while(%tuple.0), condition=%condition, body=%body
  %all-reduce.1 = (f32[100]{0}, f32[28]{0}) all-reduce(%a, %b), channel_id=20, replica_groups={{0,1}}, to_apply=%add
  %alone = f32[8]{0} all-reduce(%c), channel_id=21, replica_groups={{0},{1}}, to_apply=%add
  %send.3 = (f32[64,8]{1,0}, u32[], token[]) send(%d, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %out = f32[8]{0} add(%e, %f)
}
"""  # noqa: E501


def test_every_kind_is_counted_as_often_as_it_runs():
    found = {(c.network, c.kind): c for c in read_collectives(TEXT)}
    gather = found["ICI", "all-gather"]
    assert (gather.group, gather.count, gather.bytes) == (4, 32, 32 * 1024 * 256 * 2), "its two halves count once"
    assert gather.wire == gather.bytes * 3 / 4
    scatter = found["ICI", "reduce-scatter"]
    assert (scatter.group, scatter.count, scatter.bytes) == (4, 32, 32 * 1024 * 256 * 4)
    reduced = found["ICI", "all-reduce"]
    assert (reduced.group, reduced.count, reduced.bytes, reduced.wire) == (2, 1, 128 * 4, 128 * 4)
    between = found["DCN", "all-reduce"]
    assert (between.group, between.count, between.bytes) == (2, 1, 64 * 8 * 4)
    assert len(found) == 4, "a group of one sends nothing"


def test_a_text_without_a_program():
    assert read_collectives("") == []
