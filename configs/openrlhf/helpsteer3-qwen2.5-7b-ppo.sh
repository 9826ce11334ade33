#!/usr/bin/env bash
# PPO on HelpSteer3 with OpenRLHF 0.11 and a calibrated rung: Qwen2.5-7B, all weights, one node of 8 GPUs, as in the
# paper (arXiv 2505.22653: 64 prompts x 4 answers, one update a rollout, GAE(1, 1), no KL, the critic first).
#
# This launch has not been run. The tests look up each of its options in the real OpenRLHF 0.11.0, and its reward client
# runs there; memory and speed of the eight GPUs are not measured.
#
# In RewardLadder's environment, once:
#   rewardladder calibrate configs/helpsteer3-qwen2.5-7b-140gb.yaml
#   rewardladder export-prompts runs/helpsteer3-qwen2.5-7b-140gb output=runs/prompts
#   rewardladder serve runs/helpsteer3-qwen2.5-7b-140gb/rm/rung-75 port=8000 dtype=bfloat16   # on a GPU of its own
# A server behind a key cannot be asked over HTTP, because OpenRLHF sends none. Then, or for another reward of the same
# rung, install RewardLadder beside OpenRLHF (pip install scipy statsmodels && pip install --no-deps reward-ladder) and set
#   REWARDLADDER_REWARD=configs/openrlhf/reward.yaml REWARD=$(python3 -m policy.adapters.openrlhf_reward)
set -euo pipefail

PYTHON=${PYTHON:-python3}
PROMPTS=${PROMPTS:-$PWD/runs/prompts}
MODEL=${MODEL:-Qwen/Qwen2.5-7B-Instruct}
REWARD=${REWARD:-http://127.0.0.1:8000/get_reward}
EPISODES=${EPISODES:-1}

"$PYTHON" -m openrlhf.cli.train_ppo_ray \
    --actor.model_name_or_path "$MODEL" \
    --critic.model_name_or_path "$MODEL" \
    --reward.remote_url "$REWARD" \
    --reward.clip_range -10 10 \
    --data.prompt_dataset "$PROMPTS/train.parquet" \
    --data.input_key prompt \
    --data.label_key label \
    --data.apply_chat_template \
    --data.max_len 7680 \
    --rollout.max_new_tokens 6144 \
    --rollout.batch_size 64 \
    --rollout.n_samples_per_prompt 4 \
    --rollout.temperature 1.0 \
    --rollout.top_p 1.0 \
    --train.batch_size 256 \
    --train.micro_batch_size 1 \
    --rollout.micro_batch_size 4 \
    --train.max_epochs 1 \
    --train.num_episodes "$EPISODES" \
    --algo.advantage.estimator gae \
    --algo.advantage.lambd 1.0 \
    --algo.advantage.gamma 1.0 \
    --algo.kl.init_coef 0 \
    --actor.adam.lr 1e-6 \
    --actor.lr_scheduler constant \
    --actor.eps_clip 0.2 \
    --actor.entropy_coef 0.001 \
    --critic.adam.lr 5e-6 \
    --critic.lr_scheduler constant \
    --critic.value_clip 0.5 \
    --critic.freezing_steps 20 \
    --actor.num_nodes 1 \
    --actor.num_gpus_per_node 8 \
    --critic.num_nodes 1 \
    --critic.num_gpus_per_node 8 \
    --train.colocate_all \
    --vllm.num_engines 4 \
    --vllm.tensor_parallel_size 2 \
    --vllm.gpu_memory_utilization 0.5 \
    --vllm.enable_sleep \
    --ds.enable_sleep \
    --ds.zero_stage 3 \
    --ds.packing_samples \
    --actor.gradient_checkpointing_enable \
    --ckpt.output_dir runs/openrlhf/helpsteer3-qwen2.5-7b-rpr-rung75 \
    "$@"
