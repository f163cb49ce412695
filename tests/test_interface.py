"""The names, signatures, keys and group members that published models use are there, as the page of the interface says.

What they do is tested beside their code in xlm-core; that models written from the page run, in test_published_models.
"""

from __future__ import annotations

import importlib
import inspect
from importlib.resources import files
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xlm import flags
from xlm.compose import load_config, register_resolvers
from xlm.compose.resolvers import late_values_as_text
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.utils.instantiate import components, instantiate

IMPORTS = {
    "xlm.harness": "Harness LossFunction Predictor PredictorHistoryMixin LRSchedulerWithConfig",
    "xlm.datamodule": "Tokenizer Collator Seq2SeqCollator Seq2SeqCollatorPrediction BaseCollatorInput "
    "Seq2SeqCollatorInput BaseBatch TextDataModule DatasetManager LocalDatasetManager EvalDatasetManager "
    "UnconditionalGenerationDatasetManager SimpleSpaceTokenizer token_ids_to_input_ids "
    "token_ids_to_input_ids_and_prompt_ids ids_to_example_fn pack_sequences load_auto_tokenizer BertTokenizerFast "
    "GPT2TokenizerFast",
    "xlm.noise": "NoiseSchedule DummyNoiseSchedule",
    "xlm.model": "Model",
    "xlm.metrics": "MetricWrapper ExactMatch TokenAccuracy exact_match_update_fn seq2seq_exact_match_update_fn "
    "seq2seq_token_accuracy_update_fn steps_taken_update_fn",
    "xlm.log_predictions": "LogPredictions TokensHook",
    "xlm.external_models": "ExternalModelConflictError",
    "xlm.flags": "DEBUG DEBUG_OVERFIT DEBUG_PRINT_PREDS DEBUG_PROFILE DEBUG_VIZ_LOGITS",
    "xlm.utils.rank_zero": "RankedLogger rank_zero_only rank_zero_warn warn_once",
    "xlm.utils.nn": "pad_truncate_list masked_mean masked_sum sample_from_logits sample_from_top_k sample_from_top_p "
    "sample_categorical select_random_indices add_gumbel_noise add_exp_1_noise",
    "xlm.utils.rich_utils": "print_config_tree",
    "xlm.utils.imports": "get_function",
    "xlm.utils.text": "remove_trailing_pads",
    "xlm.modules.position": "RotaryEmbedding",
    "xlm.modules.rotary_transformer": "RotaryTransformerLayer RotaryTransformerLayerList RotaryTransformerFinalLayer "
    "RotaryTransformerFinalLayerForClassification RotaryEmbedding",
    "xlm.modules.ddit_simple": "DDiTLayer DDiTLayerList DDitFinalLayer TimestepEmbedder RotaryEmbedding",
}
# Parameters in order, defaults where the page gives them; what follows in our signatures has defaults too.
SIGNATURES = {
    "xlm.harness.Harness": "cfg, tokenizer=None, datamodule=None",
    "xlm.harness.Harness._step": "self, batch, batch_idx, dataloader_idx, stage",
    "xlm.harness.Harness.create_lr_scheduler": "optimizer, name",
    "xlm.harness.Harness.from_checkpoint": "checkpoint_path, cfg, tokenizer, datamodule, apply_ema=True, "
    "map_location='cpu'",
    "xlm.harness.Harness.save_model_weights": "self, path, overwrite=False",
    "xlm.harness.Harness.push_to_hub": "self, repo_id, commit_message='Upload model'",
    "xlm.harness.LossFunction.__call__": "self, batch, batch_idx=None, dataloader_idx=None, dataloader_name=None",
    "xlm.harness.Predictor.predict": "self, batch, batch_idx=None, dataloader_idx=None, dataloader_name=None",
    "xlm.harness.Predictor.to_dict": "self, batch, preds",
    "xlm.harness.PredictorHistoryMixin.init_history": "self, return_history=False, decode_fn=None",
    "xlm.harness.PredictorHistoryMixin.create_history": "self, batch_size",
    "xlm.harness.PredictorHistoryMixin.update_history_from_state": "self, history, state, step, "
    "confidence_key='confidence', active_mask_key=None",
    "xlm.harness.PredictorHistoryMixin.update_history_explicit": "self, history, texts, confidences, step, "
    "active_mask=None",
    "xlm.harness.PredictorHistoryMixin.format_history_for_output": "self, history, round_precision=4",
    "xlm.training.optim.create_lr_scheduler": "optimizer, name, num_warmup_steps=None, fraction_warmup_steps=None, "
    "num_training_steps=None, interval='step', frequency=1, monitor=None, strict=True",
    "xlm.log_predictions.TokensHook.__call__": "self, metadata, x_in, x_out",
    "xlm.utils.rank_zero.RankedLogger": "name='xlm.utils.rank_zero', rank_zero_only=False",
    "xlm.utils.rich_utils.print_config_tree": "cfg, resolve=True, save_to_file=False",
    "xlm.utils.imports.get_function": "path",
    "xlm.utils.text.remove_trailing_pads": "text, tokenizer, tokens_to_remove=None",
    "xlm.utils.nn.pad_truncate_list": "ids, max_len, pad_token, pad_left=False, return_num_padded=False",
    "xlm.utils.nn.masked_mean": "vector, mask, dim, keepdim=False",
    "xlm.utils.nn.masked_sum": "vector, mask, dim, keepdim=False",
    "xlm.utils.nn.sample_categorical": "probs",
    "xlm.utils.nn.sample_from_logits": "logits, temperature=1.0, noise_scale=1.0",
    "xlm.utils.nn.sample_from_top_k": "k, logits, temperature=1.0",
    "xlm.utils.nn.sample_from_top_p": "p, logits, temperature=1.0",
    "xlm.utils.nn.select_random_indices": "inp_shape, num_unmask, select_from_mask=None, selection_score=None, "
    "temperature=1.0, selection_mode='greedy', score_mode='logits'",
    "xlm.modules.position.RotaryEmbedding": "dim, head_first=True, cache_size=1024",
    "xlm.modules.position.RotaryEmbedding.forward": "self, x, positions",
    "xlm.modules.rotary_transformer.RotaryTransformerLayer": "d_model, nhead, dim_feedforward=None, dropout=0.1, "
    "activation='relu', layer_norm_eps=1e-05, force_flash_attn=False",
    "xlm.modules.rotary_transformer.RotaryTransformerLayer.forward": "self, inp, attention_mask, positions=None, "
    "block_mask=None",
    "xlm.modules.rotary_transformer.RotaryTransformerLayerList.from_layer": "layer, num_layers, rotary_emb",
    "xlm.modules.rotary_transformer.RotaryTransformerFinalLayer": "d_model, out_dims, layer_norm_eps=1e-05, "
    "use_final_layer_norm=True, zero_init=False",
    "xlm.modules.rotary_transformer.RotaryTransformerFinalLayerForClassification": "d_model, out_dims, dropout=0.1, "
    "layer_norm_eps=1e-05",
    "xlm.modules.ddit_simple.TimestepEmbedder": "hidden, frequency_embedding_size=256",
    "xlm.modules.ddit_simple.DDiTLayer": "d_model, nhead, dim_feedforward=None, dropout=0.1, activation='gelu', "
    "layer_norm_eps=1e-05, d_cond=128, force_flash_attn=False",
    "xlm.modules.ddit_simple.DDiTLayer.forward": "self, x, c, attention_mask, positions",
    "xlm.modules.ddit_simple.DDiTLayerList.from_layer": "layer, num_layers, rotary_emb",
    "xlm.modules.ddit_simple.DDitFinalLayer": "d_model, out_dims, d_cond, layer_norm_eps=1e-05",
    "xlm.modules.ddit_simple.DDitFinalLayer.forward": "self, x, c",
}
ROOT_KEYS = """
    job_type job_name seed per_device_batch_size per_device_val_batch_size global_batch_size block_size
    input_block_size num_dataloader_workers num_dataset_workers dataloader_prefetch_factor
    dataloader_persistent_workers dataloader_pin_memory monitored_metric compile global_flags checkpointing_dir
    resume_from_checkpoint resume_checkpoint_path paths.root_dir paths.data_dir paths.log_dir paths.output_dir
    paths.run_dir paths.work_dir paths.cache_dir trainer.max_steps trainer.devices optimizer.lr lr_scheduler.name
    log_predictions diagnostic_metrics reported_metrics tags loss predictor model lightning_module
    callbacks.checkpoint_monitor.monitor callbacks.checkpoint_every_n_steps.every_n_train_steps
    callbacks.checkpoint_every_n_steps.keep_multiple
"""
STAR_SETS = [f"star_{size}_{split}" for size in ("easy", "medium", "hard")
             for split in ("train", "val", "val_pred", "test", "test_pred")]  # fmt: skip
MEMBERS = {
    "datamodule": "default star_easy star_medium star_hard lm1b owt",
    "datasets": " ".join([*STAR_SETS, "lm1b_train lm1b_test owt_train owt_val owt_test"])
    + " text_unconditional_prediction",
    "metrics": "accumulated_loss seq2seq_exact_match seq2seq_token_accuracy seq2seq_length_loss seq2seq_token_ce "
    "exact_match token_accuracy steps_taken",
    "noise_schedule": "dummy",
    "loggers": "default tensorboard wandb debug",
    "callbacks": "default",
    "trainer_strategy": "single_device cpu ddp ddp_multinode fsdp",
    "debug": "overfit small_data print_predictions",
    "post_hoc_evaluator": "default",
}


@pytest.mark.parametrize(("module", "names"), IMPORTS.items(), ids=IMPORTS)
def test_every_name_can_be_imported(module: str, names: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in names.split() if not hasattr(found, name)] == []


def resolved(path: str) -> Any:
    parts = path.split(".")
    split = next(i for i in range(len(parts), 0, -1) if _is_module(".".join(parts[:i])))
    found = importlib.import_module(".".join(parts[:split]))
    for part in parts[split:]:
        found = getattr(found, part)
    return found


def _is_module(path: str) -> bool:
    try:
        importlib.import_module(path)
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize(("path", "promised"), SIGNATURES.items(), ids=SIGNATURES)
def test_signatures_begin_as_promised(path: str, promised: str) -> None:
    parameters = list(inspect.signature(resolved(path)).parameters.values())
    plain = [p.replace(annotation=p.empty) for p in parameters]
    expected = list(inspect.signature(eval(f"lambda {promised}: None")).parameters.values())
    # A default more than the page names breaks nobody.
    begun = [
        p if e.default is not e.empty else p.replace(default=p.empty) for p, e in zip(plain, expected, strict=False)
    ]
    assert begun == expected
    for rest in plain[len(expected) :]:
        assert rest.default is not rest.empty or rest.kind in (rest.VAR_POSITIONAL, rest.VAR_KEYWORD), rest


def test_root_keys_can_be_interpolated() -> None:
    keys = [*ROOT_KEYS.split(), "global_components.tokenizer", "global_components.noise_schedule"]
    cfg = load_config(["experiment=star_easy", "model=tiny_mlm", "model_type=mlm"])
    OmegaConf.set_struct(cfg, False)
    cfg.seen = {f"k{i}": f"${{{key}}}" for i, key in enumerate(keys)}
    with late_values_as_text():
        for i, key in enumerate(keys):
            assert OmegaConf.select(cfg, f"seen.k{i}", default=key) != key, key
    assert cfg.input_block_size == 28
    assert load_config(["experiment=text", "model=tiny_mlm", "model_type=mlm"]).input_block_size is None


@pytest.mark.parametrize("group", MEMBERS)
def test_group_members_exist(group: str) -> None:
    folder = files("xlm.configs.lightning_train") / group
    assert [name for name in MEMBERS[group].split() if not (folder / f"{name}.yaml").is_file()] == []


def test_flags_are_false_until_a_configuration_sets_them() -> None:
    names = IMPORTS["xlm.flags"].split()
    assert not any(getattr(flags, name) for name in names)
    flags.set_flags({"DEBUG_VIZ_LOGITS": True})
    try:
        assert flags.DEBUG_VIZ_LOGITS is True
    finally:
        flags.set_flags({"DEBUG_VIZ_LOGITS": False})


def test_the_tokenizer_has_its_special_tokens_where_published_weights_have_them() -> None:
    tokenizer = SimpleSpaceTokenizer.for_numbers(vocab_size=20)
    names = ("pad", "cls", "mask", "eos", "bos", "sep", "unk")
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == list(range(7))
    assert tokenizer.convert_tokens_to_ids([getattr(tokenizer, f"{name}_token") for name in names]) == list(range(7))
    assert tokenizer("0 19", add_special_tokens=False)["input_ids"] == [7, 26]
    assert tokenizer.convert_ids_to_tokens([7, 26]) == ["0", "19"]
    assert tokenizer.full_vocab_size == 27


def test_late_resolvers_read_the_live_objects() -> None:
    register_resolvers()
    cfg = OmegaConf.create(
        {
            "ids": "${tokenizer:full_vocab_size}",
            "workers": "${datamodule:num_dataset_workers}",
            "step": "${lightning_module:global_step}",
            "schedule": {"_target_": "builtins.dict", "it": "${global_components:noise_schedule}"},
        }
    )
    schedule = object()
    datamodule, module = torch.nn.Module(), torch.nn.Module()
    datamodule.num_dataset_workers, module.global_step = 3, 7
    tokenizer = SimpleSpaceTokenizer.for_numbers(5)
    with components(tokenizer=tokenizer, datamodule=datamodule, lightning_module=module, noise_schedule=schedule):
        assert (cfg.ids, cfg.workers, cfg.step) == (12, 3, 7)
        assert instantiate(cfg.schedule)["it"] is schedule


def test_arithmetic_sees_the_text_after_interpolation_and_never_python() -> None:
    register_resolvers()
    cfg = OmegaConf.create(
        {"d_model": 8, "text": "__import__('os')", "wide": "${eval:${.d_model}*4}", "evil": "${eval:${.text}}"}
    )
    assert cfg.wide == 32
    with pytest.raises(OmegaConfBaseException, match="eval"):
        cfg.evil  # noqa: B018
