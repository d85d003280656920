const a: number[][] = [];
for (;;) a.push(new Array(100000).fill(a.length));
