#!/bin/bash
# sbatch screen.sh: predictions of many structures, merged in order by the job that ends last
#SBATCH --job-name=eqmol-predict
#SBATCH --array=1-40
#SBATCH --ntasks=1
#SBATCH --requeue

eqmol predict runs/mine/model.safetensors 'new/*.xyz' -o out.xyz --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
