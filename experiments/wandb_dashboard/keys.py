"""Names under which the study logs what the dashboard shows: figures, pictures, tables and settings."""

from typing import Final

# Axes: what the study logs once an epoch, and what callbacks log at every logging step.
EPOCH: Final = "epoch"
STEP: Final = "trainer/global_step"

# Once an epoch; those of the test part where it is scored beside the validation, and at the end of the run.
LEARNING_RATE: Final = "lr"
TRAIN_LOSS: Final = "train_loss"
TRAIN_ACCURACY: Final = "train_accuracy"
VAL_ACCURACY: Final = "val_accuracy"
VAL_TOP5: Final = "val_top5"
VAL_CALIBRATION_ERROR: Final = "val_calibration_error"
VAL_NLL: Final = "val_nll"
TEST_ACCURACY: Final = "test_accuracy"
TEST_TOP5: Final = "test_top5"
TEST_CALIBRATION_ERROR: Final = "test_calibration_error"
TEST_NLL: Final = "test_nll"
EPOCH_SECONDS: Final = "epoch_seconds"

# In the summary of a finished run alone.
TEST_ACCURACY_MEDIAN: Final = "test_accuracy_median_last_10"

# After `python -m experiments.evaluate`, with attacks of its defaults; the mean over types and severities.
UNDER_FGSM: Final = "robustness/fgsm_8"
UNDER_PGD: Final = "robustness/pgd_20"
CORRUPTED: Final = "robustness/corrupted"

# At every logging step: the callbacks' figures, each under the name of its callback.
PUZZLEMIX: Final = "puzzlemix"
BASELINES: Final = ("mixup", "cutmix", "manifoldmix")
METHODS: Final = (PUZZLEMIX, *BASELINES)
RATIOS: Final = tuple(f"{name}/ratio" for name in METHODS)
MIXING_SECONDS: Final = tuple(f"{name}/mixing_seconds" for name in METHODS)
SALIENCY_SECONDS: Final = f"{PUZZLEMIX}/saliency_seconds"
MASK_ENTROPY: Final = f"{PUZZLEMIX}/mask_entropy"
MOVED_BLOCKS: Final = f"{PUZZLEMIX}/moved_blocks"
RETAINED_SALIENCY: Final = f"{PUZZLEMIX}/retained_saliency"
RETAINED_SALIENCY_CUTMIX: Final = f"{PUZZLEMIX}/retained_saliency_cutmix"

# Pictures of mixed batches, every so many steps.
MIX_PICTURES: Final = tuple(f"{name}/mix" for name in METHODS)

# Settings in the config of a run. One that has its default is not in there: a default has its home in code.
CHOSEN_DATA: Final = "choices.data"
CHOSEN_MODEL: Final = "choices.model"
CHOSEN_MIX: Final = "choices.mix"
# What makes a group of runs: all but the seed.
GROUP: Final = (CHOSEN_DATA, CHOSEN_MODEL, CHOSEN_MIX)
# What the sweeps of the study change, and the names that the dashboard gives to it.
SWEPT: Final = {
    "mix.config.beta": "beta, weight of the label smoothness",
    "mix.config.gamma": "gamma, weight of the image smoothness",
    "mix.config.eta": "eta, weight of the prior",
    "mix.config.transport_cost": "transport_cost, price of moving a block",
    "data.fraction": "fraction of the training images",
    "optimizer.lr": "learning rate",
}
# What `sweep=optuna` searches.
SEARCHED: Final = ("mix.config.beta", "mix.config.gamma", "mix.config.eta", "mix.config.transport_cost")
