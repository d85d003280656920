import { total } from './shop/prices';

console.log(total(6, 7));
