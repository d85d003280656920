#include <fstream>
#include <iostream>

int main()
{
    std::cout << std::ifstream("out.txt").rdbuf();
}
