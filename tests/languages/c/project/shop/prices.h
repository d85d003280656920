int total(int count, int price);
