const x: number = await Promise.resolve(7);
console.log(x);
export {};
