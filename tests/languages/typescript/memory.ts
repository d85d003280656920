const a: number[][] = [];
for (;;) a.push(new Array(4_000_000).fill(a.length));
