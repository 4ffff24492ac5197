/** How many shares of GPUs a call takes where each GPU has `slots` of them: a share is rounded up, whole GPUs are whole. */
export function gpuSlotsOf(gpus: number, slots: number): number {
  // 3 × 0.1 is a little more than 0.3, and still three tenths.
  return gpus < 1 ? Math.max(0, Math.ceil(gpus * slots - 1e-9)) : Math.ceil(gpus) * slots;
}
