namespace shop {
int total(int count, int price);
}
