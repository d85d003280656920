#include <fstream>

int main()
{
    std::ofstream("out.txt") << "made by cpp\n";
}
