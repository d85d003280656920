import * as fs from "fs";
const line: string = fs.readFileSync(0, "utf8").trimEnd();
console.log(`« ${line} »`);
