const a = [];
for (;;) a.push(new Array(100000).fill(a.length));
