#!/usr/bin/env bash
# PPO on HelpSteer3 with verl 0.9 and a calibrated rung: Qwen2.5-7B, all weights, one node of 8 GPUs, as in the paper
# (arXiv 2505.22653: 64 prompts x 4 answers, one update a rollout, GAE(1, 1), no KL, the critic first).
#
# This launch has not been run. Its settings are composed with the real verl 0.9.1 in the tests, and the reward function
# runs there; memory and speed of the eight GPUs are not measured.
#
# In RewardLadder's environment, once:
#   rewardladder calibrate configs/helpsteer3-qwen2.5-7b-140gb.yaml
#   rewardladder export-prompts runs/helpsteer3-qwen2.5-7b-140gb output=runs/prompts
#   rewardladder serve runs/helpsteer3-qwen2.5-7b-140gb/rm/rung-75 port=8000 dtype=bfloat16   # on a GPU of its own
# In verl's environment, on every node: pip install scipy statsmodels && pip install --no-deps reward-ladder
set -euo pipefail

PYTHON=${PYTHON:-python3}
PROMPTS=${PROMPTS:-$PWD/runs/prompts}
MODEL=${MODEL:-Qwen/Qwen2.5-7B-Instruct}
REWARD=${REWARD:-$PWD/configs/verl/reward.yaml}
REWARD_FILE=${REWARD_FILE:-$("$PYTHON" -m policy.adapters.verl_reward)}
STEPS=${STEPS:-200}

"$PYTHON" -m verl.trainer.main_ppo \
    algorithm.adv_estimator=gae \
    algorithm.gamma=1.0 \
    algorithm.lam=1.0 \
    algorithm.use_kl_in_reward=False \
    data.train_files="$PROMPTS/train.parquet" \
    data.val_files="$PROMPTS/dev.parquet" \
    data.train_batch_size=64 \
    data.max_prompt_length=1536 \
    data.max_response_length=6144 \
    data.filter_overlong_prompts=True \
    actor_rollout_ref.model.path="$MODEL" \
    actor_rollout_ref.model.use_remove_padding=True \
    actor_rollout_ref.model.enable_gradient_checkpointing=True \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    actor_rollout_ref.actor.ppo_mini_batch_size=64 \
    actor_rollout_ref.actor.use_dynamic_bsz=True \
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384 \
    actor_rollout_ref.actor.clip_ratio=0.2 \
    actor_rollout_ref.actor.entropy_coeff=0.001 \
    actor_rollout_ref.actor.use_kl_loss=False \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.n=4 \
    actor_rollout_ref.rollout.temperature=1.0 \
    actor_rollout_ref.rollout.top_p=1.0 \
    actor_rollout_ref.rollout.tensor_model_parallel_size=2 \
    actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
    critic.model.path="$MODEL" \
    critic.model.use_remove_padding=True \
    critic.model.enable_gradient_checkpointing=True \
    critic.optim.lr=5e-6 \
    critic.ppo_mini_batch_size=32 \
    critic.cliprange_value=0.5 \
    reward.custom_reward_function.path="$REWARD_FILE" \
    reward.custom_reward_function.name=compute_score \
    +reward.custom_reward_function.reward_kwargs.settings="$REWARD" \
    reward.reward_manager.name=naive \
    trainer.critic_warmup=20 \
    trainer.total_training_steps="$STEPS" \
    trainer.n_gpus_per_node=8 \
    trainer.nnodes=1 \
    trainer.test_freq=20 \
    trainer.save_freq=50 \
    trainer.logger='["console"]' \
    trainer.project_name=reward-ladder \
    trainer.experiment_name=helpsteer3-qwen2.5-7b-rpr-rung75 \
    "$@"
