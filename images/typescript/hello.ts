const hello: string = "hello from typescript";
console.log(hello);
