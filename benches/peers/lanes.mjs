// Calls an async function in some lanes at once, for a time, and tells how often and how fast it ended.

export async function lanes(step, count, warmUp, time) {
  const begin = performance.now() + warmUp;
  const end = begin + time;
  const took = [];
  const lane = async () => {
    for (let begun = performance.now(); begun < end; ) {
      await step();
      const ended = performance.now();
      if (ended >= begin && ended < end) took.push(ended - begun);
      begun = ended;
    }
  };
  await Promise.all(Array.from({ length: count }, lane));
  took.sort((a, b) => a - b);
  const at = (share) => Math.round((took[Math.floor((took.length - 1) * share)] ?? 0) * 1e6);
  return `${took.length} ${at(0.5)} ${at(0.99)}`;
}
