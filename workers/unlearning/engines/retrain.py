"""Exact: the recorded recipe once more, on every record but the forget set, from where it started.

What comes out is the model that training would have made had the records never been there: the same
base, seed, order and hyper-parameters, over what is left. It is a whole model, not a change to the
old one, which it never reads. It needs the recipe and all retained records, and as long as training.
"""

from dataclasses import dataclass
from typing import ClassVar

from workers.unlearning.engines.base import (
    CHECKPOINT,
    Aim,
    Context,
    EngineStatement,
    Guarantee,
    Job,
    Made,
    Refusal,
    RefusalReason,
    Replacement,
    configuration,
)
from workers.unlearning.task import create
from workers.unlearning.training import train


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """Train again without them."""

    id: ClassVar[str] = "retrain"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "exact"
    aim: ClassVar[Aim] = "erasure"

    def plan(self, job: Job) -> Refusal | None:
        """Refuse without a recipe and a base, or with nothing left to train on."""
        known = {"recipes": int(job.spec.recipe is not None), "bases": int(job.spec.base.is_dir())}
        if not all(known.values()):
            return Refusal(RefusalReason.NO_HISTORY, {"needed": 2, "allowed": sum(known.values())})
        if not job.kept_keys:
            return Refusal(RefusalReason.RETAIN_UNAVAILABLE, {"needed": 1, "allowed": 0})
        return None

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the model of the recipe on the records that stay."""
        recipe = job.spec.recipe
        assert recipe is not None, "a job that was not planned"
        task = create(job.spec.base, recipe.seed)
        trained = train(
            task,
            {key: job.records[key] for key in job.kept_keys},
            recipe,
            checkpoint=context.out / CHECKPOINT,
            checkpoint_seconds=context.checkpoint_seconds,
            progress=context.progress,
            stop=context.stop,
        )
        return Made(
            result=Replacement(task),
            records_processed=trained.records_processed,
            telemetry={
                "records": len(job.kept_keys),
                "steps": trained.steps,
                "tokens_processed": trained.tokens_processed,
                "final_loss": trained.final_loss,
            },
        )

    def describe(self, job: Job) -> EngineStatement:
        """Say that nothing of the erased records went in."""
        weights = any(job.spec.base.glob("*.safetensors"))
        return EngineStatement(
            engine=self.id,
            version=self.version,
            guarantee=self.guarantee,
            aim=self.aim,
            config=configuration(self),
            counterfactual=(
                f"the output of the recorded recipe, from its recorded base, on the {len(job.kept_keys)} "
                f"records that stay, without the {len(job.forget_keys)} that were erased"
            ),
            assumptions=(
                "the records given as staying are all that stay, and none of them repeats an erased one",
                "base, tokenizer and hyper-parameters were not chosen by means of the erased records",
            ),
            exclusions=("data seen in the base model's own pretraining",) if weights else (),
        )
