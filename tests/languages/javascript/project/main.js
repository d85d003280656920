const { total } = require('./shop/prices');

console.log(total(6, 7));
