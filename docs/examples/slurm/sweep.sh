#!/bin/bash
# sbatch sweep.sh: one job per line of options; a job that is pre-empted or reaches its time continues by itself
#SBATCH --job-name=eqmol
#SBATCH --array=0-2
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

options=(
    "model=mace backend=grid"
    "model=mace backend=cg"
    "model=gaunt"
)
srun --kill-on-bad-exit=1 eqmol train ${options[$SLURM_ARRAY_TASK_ID]} ${EQMOL_OPTIONS} \
    output_dir="runs/sweep/$SLURM_ARRAY_TASK_ID" resume=auto
code=$?
job="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
# stopped by SIGTERM, with last.ckpt written; a job that scancel ends is not RUNNING any more
if [ "$code" -eq 143 ] && [ "$(squeue --noheader --format=%T --jobs="$job")" = RUNNING ]; then
    scontrol requeue "$job"
fi
exit "$code"
